"""What is reported of a network's answers."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from kdbench.data.module import ImageData

GROUPS = ("omitted", "kept", "head", "medium", "tail")
"""The groups of classes that a protocol may have."""


def in_groups(scores: Mapping[str, Any]) -> str:
    """The mean recall of each group that `scores` have, in words, each with a comma before it."""
    return "".join(f", {name} classes {scores[name]:.2f} %" for name in GROUPS if name in scores)


class Scores(nn.Module):
    """Top-1, top-5 and the agreement with a teacher, in per cent, gathered over the chunks of one split.

    groups: labels of classes by the name of their group, whose mean recall, in per cent, is a score of that name.
    """

    def __init__(self, num_classes: int, groups: Mapping[str, Sequence[int]] | None = None) -> None:
        super().__init__()
        self.groups = groups or {}
        self.recall: list[float | None] = []
        """Of each class, in per cent, at the last `compute`; None where the split has no image of it."""
        top5 = min(5, num_classes)
        self.top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=top5, validate_args=False)
        self.agreement = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.by_class = MulticlassStatScores(num_classes, average=None, validate_args=False)

    def update(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
        """logits [N, C], target [N], teacher: the teacher's logits [N, C] for the same rows."""
        self.top1.update(logits, target)
        self.top5.update(logits, target)
        self.by_class.update(logits, target)
        if teacher is not None:
            self.agreement.update(logits, teacher.argmax(dim=-1))

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        meters = {"top1": self.top1, "top5": self.top5, "agreement": self.agreement}
        scores = {name: _per_cent(meter) for name, meter in meters.items() if meter.update_count}
        self.recall = _recall(self.by_class)
        for name, members in self.groups.items():
            found = [score for label in members if (score := self.recall[label]) is not None]
            if found:
                scores[name] = round(statistics.fmean(found), 4)
        for meter in (*meters.values(), self.by_class):
            meter.reset()
        return scores


def _recall(meter: MulticlassStatScores) -> list[float | None]:
    hits, *_, images = meter.compute().double().unbind(dim=-1)
    shares = (100 * hits / images).tolist()
    return [None if math.isnan(share) else round(share, 4) for share in shares]


def _per_cent(meter: MulticlassAccuracy) -> float:
    # torchmetrics divides in float32; what that leaves beyond the fourth decimal is noise
    return round(100 * float(meter.compute()), 4)


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageData, split: str, bf16: bool = False) -> dict[str, float]:
    """The `Scores` of a network on a split, with those of the data's groups; it is left in eval mode."""
    model.eval()
    scores = Scores(data.num_classes, data.groups).to(data.device)
    for chunk in data.eval_chunks(split):
        batch = data.eval_batch(chunk.split, chunk.start, chunk.stop)
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16):
            logits = model(batch.inputs)
        scores.update(logits.float(), batch.target)
    return scores.compute()
