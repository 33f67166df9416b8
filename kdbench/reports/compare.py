"""Comparison of measured accuracies with a published value: the difference, and whether it is meaningful."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.reports.published import Published, Value
from kdbench.reports.statistics import z_score


@dataclass(frozen=True)
class PublishedMatch:
    """A published value and how measured accuracies compare with it.

    Attributes:
        value: The published value.
        source: The source of the value.
        compared: Which measured accuracy is compared: `last` or `best_on_test`.
        delta: Measured minus published, in points; None where the two are not comparable.
        z: `delta` in standard errors; None where one side has no deviation.
        reason: Why `delta` or `z` is missing.
        recipe_difference: How the measured recipe differs from the source's; empty where it does not.
    """

    value: Value
    source: Published
    compared: str
    delta: float | None
    z: float | None
    reason: str
    recipe_difference: str = ""

    @property
    def selection(self) -> str:
        """The source's choice of the epoch."""
        return self.value.selection or self.source.selection


def compare(
    last: Sequence[float],
    best: Sequence[float],
    epochs: int | None,
    value: Value,
    source: Published,
    recipe_difference: str = "",
) -> PublishedMatch:
    """Compare accuracies with a published value where epochs, weights and recipe agree.

    Args:
        last: Accuracy of each seed at the last epoch, in per cent.
        best: Accuracy of each seed at the epoch best on test, in per cent; compared where the source chose so.
        epochs: Number of epochs trained.
        value: The published value.
        source: Its source.
        recipe_difference: How the recipe differs from the source's, for readers.
    """
    selection = value.selection or source.selection
    values, compared = (best, "best_on_test") if selection.startswith("best") else (last, "last")
    reason = _incomparable(epochs, value, source) or (
        f"here {recipe_difference}" if recipe_difference else ""
    )
    reason = reason or ("" if values else "no best epoch on test here")
    if reason:
        return PublishedMatch(value, source, compared, None, None, reason, recipe_difference)
    delta = statistics.fmean(values) - value.mean
    z = z_score(values, value.mean, value.std, value.trials)
    reason = "" if z is not None else _no_z(values, value)
    return PublishedMatch(value, source, compared, delta, z, reason)


def _incomparable(epochs: int | None, value: Value, source: Published) -> str:
    if source.status == "secondary":
        return "published by others than the authors"
    if epochs != source.epochs:
        return f"epochs: {'unknown' if epochs is None else epochs} here, {source.epochs} in the source"
    return f"other loss weights in the source: {value.weights}" if value.weights else ""


def _no_z(values: Sequence[float], value: Value) -> str:
    if value.std is None or not value.trials or value.trials < 2:
        return "no z: the source gives no deviation"
    return "no z: one seed here" if len(values) < 2 else "no z: no deviation on either side"
