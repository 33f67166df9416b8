"""The weights of the epoch that is best on the validation split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from kdbench.training.student import Student


class BestWeights:
    """Keeps a copy of a student's weights at its best epoch.

    Attributes:
        weights: The copy, as `Student.weights` returns it; empty without a validation split.
    """

    def __init__(self) -> None:
        self.weights: Mapping[str, Tensor] = {}

    def update(self, student: Student) -> bool:
        """Copy the weights if the epoch evaluated last is the best so far on the validation split.

        Returns:
            Whether it is the best.
        """
        *earlier, row = student.progress.curve
        metric = f"validation/{student.task.metric}"
        score = row.get(metric)
        is_best = score is not None and all(score > other[metric] for other in earlier)
        if is_best:
            self.weights = _copy(student.weights())
        return is_best

    @contextmanager
    def applied_to(self, student: Student) -> Iterator[None]:
        """Give a student its best weights within the context; without any, it keeps those it has."""
        current = _copy(student.weights())
        student.load_weights(self.weights or current)
        yield
        student.load_weights(current)


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
