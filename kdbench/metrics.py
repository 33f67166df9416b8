"""What is reported of a network's answers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy, MulticlassConfusionMatrix

from kdbench.core import Batch
from kdbench.models import answer_batch
from kdbench.objectives.mcmi import LEAST, class_sums, normalised
from kdbench.ranks import summed

if TYPE_CHECKING:
    from kdbench.data.base import TaskData
    from kdbench.data.module import ImageData
    from kdbench.diagnostics import Diagnostics

ECE_BINS = 15
"""Of equal width, as in Guo et al. 2017, arXiv:1706.04599."""

GROUPS = ("omitted", "kept", "head", "medium", "tail")
"""The groups of classes that a protocol may have."""


def in_groups(scores: Mapping[str, Any]) -> str:
    """The mean recall of each group that `scores` have, in words, each with a comma before it."""
    return "".join(f", {name} classes {scores[name]:.2f} %" for name in GROUPS if name in scores)


class Meter(nn.Module):
    """Gathers the scores of one network on one split, over its chunks."""

    recall: Sequence[float | None] = ()
    """Of each class, in per cent, at the last `compute`, where there are classes."""

    confusion: Tensor | None = None
    """Samples of class i taken for class j, int64 [C, C], at the last `compute`, where there are classes."""

    samples: Sequence[Mapping[str, Any]] = ()
    """Some of what the network said, at the last `compute`, where people can read it."""

    def look(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """One chunk: the network, what it was shown, its logits [N, C] and the teacher's for the same rows."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        raise NotImplementedError


class Scores(Meter):
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

    def look(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Logits are all that it looks at."""
        self.update(logits, batch.target, teacher)

    def update(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
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
            name: round(100 * float(meter.compute()), 4)
            for name, meter in shares.items()
            if meter.update_count
        }
        if self.nll.update_count:
            scores["nll"] = round(float(self.nll.compute()), 6)
        self.confusion = self.by_class.compute()
        self.recall = _recall(self.confusion)
        for name, members in self.groups.items():
            found = [score for label in members if (score := self.recall[label]) is not None]
            if found:
                scores[name] = round(statistics.fmean(found), 4)
        for meter in (*shares.values(), self.nll, self.by_class):
            meter.reset()
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


class ConditionalMutualInformation(Metric):
    """I(X; Yhat | Y) of a network's answers, in nats: mean_i KL(P_i || Q_y_i), Q_y the mean of P over class y.

    In one pass, for it is a difference of sums; under DDP these are of all ranks.
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
        """logits [N, C], target [N]."""
        log_p = logits.double().log_softmax(dim=-1)
        self.sums += class_sums(logits, target, len(self.sums))
        self.negentropy += (log_p.exp() * log_p).sum()
        self.count += len(target)

    def compute(self) -> Tensor:
        """The CMI of what was seen."""
        return self.against(normalised(self.sums))

    def against(self, centroids: Tensor) -> Tensor:
        """The same with given centroids [C, C] in the place of the images' own: never less."""
        cross = (self.sums * centroids.double().clamp_min(LEAST).log()).sum()
        return (self.negentropy - cross) / self.count


@torch.no_grad()
def evaluate(
    model: nn.Module, data: TaskData, split: str, bf16: bool = False, view: str | None = None
) -> dict[str, float]:
    """The scores of a network on a split, with those of the data's groups; it is left in eval mode.

    view: what it is shown of texts, where that is not the first of the task's.
    """
    model.eval()
    meter = data.meter(split).to(data.device)
    for chunk in data.eval_chunks(split):
        batch = data.eval_batch(chunk.split, chunk.start, chunk.stop)
        if view is not None:
            batch = replace(batch, texts={view: batch.texts[view]})
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16):
            logits = answer_batch(model, batch).logits
        meter.look(model, batch, logits.float())
    return meter.compute()


@torch.no_grad()
def class_spread(
    model: nn.Module, data: ImageData, split: str, bf16: bool = False, fixed: Tensor | None = None
) -> dict[str, float]:
    """nll (the cross-entropy) and cmi (conditional mutual information) of a network on a split, in nats; it is left in
    eval mode.

    fixed: centroids [C, C]; with them also `cmi_fixed`, the CMI against them.
    """
    model.eval()
    spread, cross_entropy = ConditionalMutualInformation(data.num_classes).to(data.device), 0.0
    for chunk in data.eval_chunks(split):
        batch = data.eval_batch(chunk.split, chunk.start, chunk.stop)
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16):
            logits = model(batch.inputs).float()
        spread.update(logits, batch.target)
        cross_entropy += F.cross_entropy(logits, batch.target, reduction="sum").item()
    total = summed(torch.tensor(cross_entropy, dtype=torch.float64, device=data.device)).item()
    scores = {"nll": total / data.eval_size(split), "cmi": float(spread.compute())}
    if fixed is not None:
        with spread.sync_context():
            scores["cmi_fixed"] = float(spread.against(fixed))
    return scores
