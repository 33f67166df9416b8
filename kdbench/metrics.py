"""What is reported of a network's answers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from kdbench.data.module import ImageData
from kdbench.objectives.mcmi import LEAST, class_sums, normalised


class Scores(nn.Module):
    """Top-1, top-5 and the agreement with a teacher, in per cent, gathered over the chunks of one split."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        top5 = min(5, num_classes)
        self.top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=top5, validate_args=False)
        self.agreement = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def update(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
        """logits [N, C], target [N], teacher: the teacher's logits [N, C] for the same rows."""
        self.top1.update(logits, target)
        self.top5.update(logits, target)
        if teacher is not None:
            self.agreement.update(logits, teacher.argmax(dim=-1))

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        meters = {"top1": self.top1, "top5": self.top5, "agreement": self.agreement}
        scores = {name: _per_cent(meter) for name, meter in meters.items() if meter.update_count}
        for meter in meters.values():
            meter.reset()
        return scores


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


def _per_cent(meter: MulticlassAccuracy) -> float:
    # torchmetrics divides in float32; what that leaves beyond the fourth decimal is noise
    return round(100 * float(meter.compute()), 4)


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageData, split: str, bf16: bool = False) -> dict[str, float]:
    """Top-1 and top-5 of a network on a split, in per cent; it is left in eval mode."""
    model.eval()
    scores = Scores(data.num_classes).to(data.device)
    for chunk in data.eval_chunks(split):
        batch = data.eval_batch(chunk.split, chunk.start, chunk.stop)
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16):
            logits = model(batch.inputs)
        scores.update(logits.float(), batch.target)
    return scores.compute()


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
    scores = {"nll": cross_entropy / data.eval_size(split), "cmi": float(spread.compute())}
    return scores if fixed is None else scores | {"cmi_fixed": float(spread.against(fixed))}
