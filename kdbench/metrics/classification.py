"""What is reported of a network's answers."""

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

if TYPE_CHECKING:
    from kdbench.metrics.diagnostics import Diagnostics

from kdbench.metrics.base import Metric

ECE_BINS = 15
"""Of equal width, as in Guo et al. 2017, arXiv:1706.04599."""


class Scores(Metric):
    """What is said of the answers to one split, gathered over its chunks.

    top1, top5, agreement (with a teacher) and ece (expected calibration error of the top-1 probability) in per cent,
    nll (negative log-likelihood) in nats.

    groups: labels of classes by the name of their group, whose mean recall, in per cent, is a score of that name.
    more: what else is to be said of the answers, or None.
    """

    def __init__(
        self,
        num_classes: int,
        groups: Mapping[str, Sequence[int]] | None = None,
        more: Diagnostics | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.more = groups or {}, more
        self.recall: list[float | None] = []  # None where the split has no image of a class
        top5 = min(5, num_classes)
        self.top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=top5, validate_args=False)
        self.agreement = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.by_class = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.nll = MeanMetric(nan_strategy="disable")
        self.ece = BinaryCalibrationError(ECE_BINS, validate_args=False)

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Logits are all that it looks at."""
        self.add(logits, batch.target, teacher)

    def add(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
        """logits [N, C], target [N], teacher: the teacher's logits [N, C] for the same rows."""
        self.top1.update(logits, target)
        self.top5.update(logits, target)
        self.by_class.update(logits, target)
        self.nll.update(F.cross_entropy(logits, target, reduction="none"))
        self.ece.update(*confidence(logits, target))
        if self.more is not None:
            self.more.update(logits, target, teacher)
        if teacher is not None:
            self.agreement.update(logits, teacher.argmax(dim=-1))

    def compute(self) -> dict[str, float]:
        """The scores so far, under DDP of what all ranks have seen, and start again."""
        shares = {"top1": self.top1, "top5": self.top5, "agreement": self.agreement, "ece": self.ece}
        # torchmetrics divides in float32; what that leaves beyond the fourth decimal is noise
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
            found = [score for label in members if (score := self.recall[label]) is not None]
            if found:
                scores[name] = round(statistics.fmean(found), 4)
        for metric in (*shares.values(), self.nll, self.by_class):
            metric.reset()
        return scores | (self.more.compute() if self.more is not None else {})


def _recall(confusion: Tensor) -> list[float | None]:
    counts = confusion.double()
    shares = (100 * counts.diagonal() / counts.sum(dim=1)).tolist()
    return [None if math.isnan(share) else round(share, 4) for share in shares]


def confidence(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the probability of its top-1 class, and whether that is right (0 or 1): [N] each.

    A probability that rounds to 1 is given as the number below it: torchmetrics has its last bin end before 1, and
    would put it into one of its own.
    """
    probability, predicted = F.softmax(logits, dim=-1).max(dim=-1)
    below_1 = 1 - torch.finfo(probability.dtype).eps / 2
    return probability.clamp(max=below_1), (predicted == target).long()
