"""What is reported of a network's answers."""

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from kdbench.data.module import ImageData


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
