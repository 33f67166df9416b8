"""The base class of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kdbench.core.types import Batch

if TYPE_CHECKING:
    pass


class Metric(nn.Module):
    """Gathers the scores of one network on one split, over its chunks."""

    recall: Sequence[float | None] = ()
    """Of each class, in per cent, at the last `compute`, where there are classes."""

    confusion: Tensor | None = None
    """Samples of class i taken for class j, int64 [C, C], at the last `compute`, where there are classes."""

    samples: Sequence[Mapping[str, Any]] = ()
    """Some of what the network said, at the last `compute`, where people can read it."""

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """One chunk: the network, what it was shown, its logits [N, C] and the teacher's for the same rows."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        raise NotImplementedError
