"""Scores of an image classifier: accuracy, likelihood, calibration, agreement and recall of groups."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy, MulticlassConfusionMatrix

from kdbench.core.types import Batch
from kdbench.metrics.base import Metric

if TYPE_CHECKING:
    from kdbench.metrics.diagnostics import Diagnostics

ECE_BINS = 15
"""Number of bins of the expected calibration error, as in Guo et al. 2017, arXiv:1706.04599."""


class ClassificationScores(Metric):
    """Scores of one network on one split.

    * `top1`, `top5`: accuracy in per cent.
    * `agreement`: share of rows whose top-1 class equals the teacher's, in per cent, if there is a teacher.
    * `ece`: expected calibration error of the top-1 probability in per cent, in 15 bins of equal width.
    * `nll`: negative log-likelihood in nats.
    * The name of each group: mean recall of its classes in per cent.

    Args:
        num_classes: Number of logits.
        groups: Labels of the classes in each group, by its name.
        diagnostics: Additional scores of the same rows.
    """

    def __init__(
        self,
        num_classes: int,
        groups: Mapping[str, Sequence[int]] | None = None,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.diagnostics = groups or {}, diagnostics
        self.recall: list[float | None] = []  # None for a class without images in the split
        top5 = min(5, num_classes)
        self.top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=top5, validate_args=False)
        self.agreement = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.by_class = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.nll = MeanMetric(nan_strategy="disable")
        self.ece = BinaryCalibrationError(ECE_BINS, validate_args=False)

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Add the logits [N, C] of a batch; the network itself is not used."""
        self.add(logits, batch.target, teacher)

    def add(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
        """Add rows: logits [N, C], target int64 [N], the teacher's logits [N, C] or None."""
        self.top1.update(logits, target)
        self.top5.update(logits, target)
        self.by_class.update(logits, target)
        self.nll.update(F.cross_entropy(logits, target, reduction="none"))
        self.ece.update(*confidence(logits, target))
        if self.diagnostics is not None:
            self.diagnostics.update(logits, target, teacher)
        if teacher is not None:
            self.agreement.update(logits, teacher.argmax(dim=-1))

    def compute(self) -> dict[str, float]:
        """Return the scores by name and reset; under DDP they cover all ranks."""
        shares = {"top1": self.top1, "top5": self.top5, "agreement": self.agreement, "ece": self.ece}
        # torchmetrics divides in float32: decimals beyond the fourth are noise
        scores = {
            name: round(100 * float(metric.compute()), 4)
            for name, metric in shares.items()
            if metric.update_count
        }
        if self.nll.update_count:
            scores["nll"] = round(float(self.nll.compute()), 6)
        self.confusion = self.by_class.compute()
        self.recall = _recall(self.confusion)
        for name, members in self.groups.items():
            recalls = [recall for label in members if (recall := self.recall[label]) is not None]
            if recalls:
                scores[name] = round(statistics.fmean(recalls), 4)
        for metric in (*shares.values(), self.nll, self.by_class):
            metric.reset()
        return scores | (self.diagnostics.compute() if self.diagnostics is not None else {})


def _recall(confusion: Tensor) -> list[float | None]:
    counts = confusion.double()
    shares = (100 * counts.diagonal() / counts.sum(dim=1)).tolist()
    return [None if math.isnan(share) else round(share, 4) for share in shares]


def confidence(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the top-1 probability of each row and whether that class is correct (0 or 1): [N] each.

    A probability of 1 is replaced by the largest number below it, because the last bin of torchmetrics excludes 1.

    Args:
        logits: [N, C].
        target: int64 [N].
    """
    probability, predicted = F.softmax(logits, dim=-1).max(dim=-1)
    below_1 = 1 - torch.finfo(probability.dtype).eps / 2
    return probability.clamp(max=below_1), (predicted == target).long()
