"""How far a student has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Our own position (epoch from 1, step from 0 within it) and what was seen on the way there."""

    epoch: int = 1
    step: int = 0
    seconds: float = 0.0
    """Of training: the student's own, and its part of what a cohort shares (data, the teacher's answers), which is
    divided among the members that took the same steps. Without start and evaluation."""
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Of the loss parts over the steps of this epoch."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """A row per evaluated epoch."""
    recall: list[float | None] = field(default_factory=list)
    """Of each class on the test split, in per cent, at the last evaluation."""
    line: dict[str, list[float]] = field(default_factory=dict)
    """The losses of the steps since the last full log line, of terms by which divergence is seen."""
    final: dict[str, float] = field(default_factory=dict)
    """The best epoch's scores on splits that are looked at once, at the end."""

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, step) of the next optimiser step."""
        return self.epoch, self.step

    def results(self, metric: str) -> dict[str, Any]:
        """The scores so far under the names that say how the epoch was chosen, the recall of each class at the last,
        and the curve; none of a first stage that looks at the teacher alone. What is tested at the end alone has no
        best on test. metric: the score that epochs are compared by.
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
    """The scores on test, and under its name, `vicuna/rouge_l`, those on each further test set."""
    other = ("train", "validation")  # `training/cmi` is of teachers
    scores = {k.removeprefix("test/"): v for k, v in row.items() if "/" in k and not k.startswith(other)}
    return {"epoch": row["epoch"], **scores}
