"""What is reported of a network's answers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy

from kdbench.data.module import ImageData

ECE_BINS = 15
"""Of equal width, as in Guo et al. 2017, arXiv:1706.04599."""


class Scores(nn.Module):
    """What is said of the answers to one split, gathered over its chunks.

    top1, top5, agreement (with a teacher) and ece (expected calibration error of the top-1 probability) in per cent,
    nll (negative log-likelihood) in nats.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        top5 = min(5, num_classes)
        self.top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=top5, validate_args=False)
        self.agreement = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.nll = MeanMetric(nan_strategy="disable")
        self.ece = BinaryCalibrationError(ECE_BINS, validate_args=False)

    def update(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
        """logits [N, C], target [N], teacher: the teacher's logits [N, C] for the same rows."""
        self.top1.update(logits, target)
        self.top5.update(logits, target)
        self.nll.update(F.cross_entropy(logits, target, reduction="none"))
        self.ece.update(*confidence(logits, target))
        if teacher is not None:
            self.agreement.update(logits, teacher.argmax(dim=-1))

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        shares = {"top1": self.top1, "top5": self.top5, "agreement": self.agreement, "ece": self.ece}
        # torchmetrics divides in float32; what that leaves beyond the fourth decimal is noise
        scores = {
            name: round(100 * float(meter.compute()), 4)
            for name, meter in shares.items()
            if meter.update_count
        }
        if self.nll.update_count:
            scores["nll"] = round(float(self.nll.compute()), 6)
        for meter in (*shares.values(), self.nll):
            meter.reset()
        return scores


def confidence(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row the probability of its top-1 class, and whether that is right (0 or 1): [N] each.

    A probability that rounds to 1 is given as the number below it: torchmetrics has its last bin end before 1, and
    would put it into one of its own.
    """
    probability, predicted = F.softmax(logits, dim=-1).max(dim=-1)
    below_1 = 1 - torch.finfo(probability.dtype).eps / 2
    return probability.clamp(max=below_1), (predicted == target).long()


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageData, split: str, bf16: bool = False) -> dict[str, float]:
    """The scores of a network on a split; it is left in eval mode."""
    model.eval()
    scores = Scores(data.num_classes).to(data.device)
    for chunk in data.eval_chunks(split):
        batch = data.eval_batch(chunk.split, chunk.start, chunk.stop)
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16):
            logits = model(batch.inputs)
        scores.update(logits.float(), batch.target)
    return scores.compute()
