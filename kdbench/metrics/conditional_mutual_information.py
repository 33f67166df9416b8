"""Conditional mutual information between input and prediction, given the class."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from kdbench.functional.class_information import PROBABILITY_FLOOR, class_sums, normalise_rows


class ConditionalMutualInformation(Metric):
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
