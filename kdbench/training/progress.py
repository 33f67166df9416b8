"""The progress of a student: its position, and the scores so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Position and scores of a student; saved with each checkpoint.

    Attributes:
        epoch: The epoch of the next step, from 1.
        step: The next step within the epoch, from 0.
        seconds: Training time, without start and evaluation: the student's own, and its share of what a cohort does
            together (data, teacher).
        images: The number of rows that it was trained on.
        sums: The sum of each part of the loss over the steps of this epoch.
        curve: A row for each evaluated epoch.
        recall: The recall of each class on the test split, in per cent, at the last evaluation.
        line: The losses since the last log line of terms that may diverge.
        final: The scores of the best epoch on splits that are scored at the end only.
    """

    epoch: int = 1
    step: int = 0
    seconds: float = 0.0
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    recall: list[float | None] = field(default_factory=list)
    line: dict[str, list[float]] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and step of the next optimiser step."""
        return self.epoch, self.step

    def results(self, metric: str) -> dict[str, Any]:
        """Return the scores so far.

        Args:
            metric: The score by which epochs are compared.

        Returns:
            The scores on test by choice of the epoch (`last`, `best_on_test`, `best_validation`), `recall` by class,
            and the `curve`. There is no `best_on_test` where test is scored at the end only. Empty for a first stage
            that does not train the network.
        """
        curve = self.curve
        if not curve:
            return {}
        results = {"last": _on_test(curve[-1])}
        if all(f"test/{metric}" in row for row in curve) and f"test/{metric}" not in self.final:
            results["best_on_test"] = _on_test(max(curve, key=lambda row: row[f"test/{metric}"]))
        if f"validation/{metric}" in curve[-1]:
            best = max(curve, key=lambda row: row[f"validation/{metric}"])
            scores = _on_test({**best, **self.final})
            results["best_validation"] = {**scores, f"validation_{metric}": best[f"validation/{metric}"]}
        return {**results, "recall": self.recall, "curve": curve}


def _on_test(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores on test, and on each additional test set under its name (`vicuna/rouge_l`)."""
    other = ("train", "validation")  # `training/cmi` is of teachers
    scores = {k.removeprefix("test/"): v for k, v in row.items() if "/" in k and not k.startswith(other)}
    return {"epoch": row["epoch"], **scores}
