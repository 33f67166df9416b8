"""The base class of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdbench.core.types import Batch


class Metric(nn.Module):
    """Scores of one network on one split, accumulated over its chunks."""

    recall: Sequence[float | None] = ()
    """Recall of each class in per cent after `compute`; None for a class without samples, empty without classes."""

    confusion: Tensor | None = None
    """Number of samples of class i that were classified as j after `compute`, int64 [C, C]; None without classes."""

    samples: Sequence[Mapping[str, Any]] = ()
    """A few generated answers after `compute`, for people to read; empty without text."""

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Add one chunk of a split.

        Args:
            model: The network.
            batch: The inputs that it was given.
            logits: Its logits [N, C].
            teacher: The teacher's logits [N, C] for the same rows, if there is a teacher.
        """
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Return the scores by name and reset; under DDP the scores cover all ranks."""
        raise NotImplementedError
