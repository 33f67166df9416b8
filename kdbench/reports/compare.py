"""A measured accuracy beside a published one: the difference, and whether it may be taken."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.reports.published import Published, Value
from kdbench.reports.statistics import z_score


@dataclass(frozen=True)
class Beside:
    """A published value and what it says of a row. delta, in points, and z are None where `why` says so.

    compared: the accuracy of the row that the value is compared with, `last` or `best_on_test`.
    """

    value: Value
    source: Published
    compared: str
    delta: float | None
    z: float | None
    why: str
    other: str = ""
    """In what the row's recipe is another one than the source's, in words."""

    @property
    def selection(self) -> str:
        """How the source chose the epoch."""
        return self.value.selection or self.source.selection


def compare(
    last: Sequence[float],
    best: Sequence[float],
    epochs: int | None,
    value: Value,
    source: Published,
    other: str = "",
) -> Beside:
    """The difference to a published value, and z, where epochs, weights and recipe are the same.

    last, best: accuracies in per cent over the seeds, at the last epoch and at the one best on test. other: in what the
    recipe is another one, in words.
    """
    selection = value.selection or source.selection
    values, compared = (best, "best_on_test") if selection.startswith("best") else (last, "last")
    why = _incomparable(epochs, value, source) or (f"here {other}" if other else "")
    why = why or ("" if values else "no best epoch on test here")
    if why:
        return Beside(value, source, compared, None, None, why, other)
    delta = statistics.fmean(values) - value.mean
    z = z_score(values, value.mean, value.std, value.trials)
    return Beside(value, source, compared, delta, z, "" if z is not None else _no_z(values, value))


def _incomparable(epochs: int | None, value: Value, source: Published) -> str:
    if source.status == "secondary":
        return "the number is quoted by others"
    if epochs != source.epochs:
        return f"{'unknown' if epochs is None else epochs} epochs here, {source.epochs} there"
    return f"other weights there: {value.weights}" if value.weights else ""


def _no_z(values: Sequence[float], value: Value) -> str:
    if value.std is None or not value.trials or value.trials < 2:
        return "z: no published deviation"
    return "z: one seed here" if len(values) < 2 else "z: no deviation on either side"
