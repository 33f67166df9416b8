"""How far a student has come."""

from __future__ import annotations

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
    final: dict[str, float] = field(default_factory=dict)
    """The best epoch's scores on splits that are looked at once, at the end."""

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, step) of the next optimiser step."""
        return self.epoch, self.step
