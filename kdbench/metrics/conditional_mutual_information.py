"""Conditional mutual information between input and prediction, given the class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

from kdbench.core.types import Batch
from kdbench.distributed.collectives import summed
from kdbench.functional.class_information import PROBABILITY_FLOOR, class_sums, normalise_rows
from kdbench.metrics.base import Metric


class ConditionalMutualInformation(torchmetrics.Metric):
    """I(X; Yhat | Y) of a network's predictions, in nats: mean_i KL(P_i || Q_y_i), Q_y the mean of P over class y.

    Source: Ye et al. 2024, arXiv:2401.08732. One pass over the data is enough, because the value is a difference
    of sums; under DDP they are summed over all ranks.
    """

    sums: Tensor
    negentropy: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        nothing = torch.zeros((), dtype=torch.float64)
        self.add_state("sums", nothing.expand(num_classes, num_classes).clone(), dist_reduce_fx="sum")
        self.add_state("negentropy", nothing, dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add predictions: logits [N, C], target int64 [N]."""
        log_p = logits.double().log_softmax(dim=-1)
        self.sums += class_sums(logits, target, len(self.sums))
        self.negentropy += (log_p.exp() * log_p).sum()
        self.count += len(target)

    def compute(self) -> Tensor:
        """Return the CMI of all samples so far."""
        return self.against(normalise_rows(self.sums))

    def against(self, centroids: Tensor) -> Tensor:
        """Return the value with other class means [C, C] in place of the samples' own, which is never smaller."""
        cross = (self.sums * centroids.double().clamp_min(PROBABILITY_FLOOR).log()).sum()
        return (self.negentropy - cross) / self.count


class ClassSpread(Metric):
    """Cross-entropy (`nll`) and conditional mutual information (`cmi`) of a classifier, in nats.

    Args:
        num_classes: The number of classes C.
        centroids: Fixed class centroids [C, C]; with them also `cmi_fixed`, the CMI against them.
    """

    def __init__(self, num_classes: int, centroids: Tensor | None = None) -> None:
        super().__init__()
        self.spread, self._centroids = ConditionalMutualInformation(num_classes), centroids
        self._reset_sums()

    def _reset_sums(self) -> None:
        self._cross_entropy, self._rows = 0.0, 0

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Add the logits [N, C] of a batch."""
        self.spread.update(logits, batch.target)
        self._cross_entropy += F.cross_entropy(logits, batch.target, reduction="sum").item()
        self._rows += len(batch.target)

    def compute(self) -> dict[str, float]:
        """Return the scores by name and reset; under DDP they cover all ranks."""
        sums = torch.tensor(
            [self._cross_entropy, self._rows], dtype=torch.float64, device=self.spread.sums.device
        )
        cross_entropy, rows = summed(sums).tolist()
        scores = {"nll": cross_entropy / rows, "cmi": float(self.spread.compute())}
        if self._centroids is not None:
            with self.spread.sync_context():
                scores["cmi_fixed"] = float(self.spread.against(self._centroids))
        self.spread.reset()
        self._reset_sums()
        return scores
