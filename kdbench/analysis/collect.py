"""What a side answers to a whole split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdbench.analysis.networks import Side
from kdbench.data.images.image_data import ImageData


@dataclass(frozen=True)
class Answers:
    """All on the CPU. logits: float64 [N, C]; features: float32 [N, D], the classifier's input, where there is one."""

    logits: Tensor
    features: Tensor | None


@torch.no_grad()
def collect(side: Side, data: ImageData, split: str) -> Answers:
    """Ask a side for every row of a split as it is, in float32. ValueError where a logit is not finite."""
    wanted = tuple(name for name in ("pooled",) if name in side.features)
    side.module.to(data.device)
    logits, features = [], []
    for chunk in data.eval_chunks(split):
        outputs = side.answer(data.eval_batch(split, chunk.start, chunk.stop), wanted)
        logits.append(outputs.logits.cpu())
        features += [outputs.features[name].flatten(1).cpu() for name in wanted]
    answers = Answers(torch.cat(logits).double(), torch.cat(features) if features else None)
    if not bool(answers.logits.isfinite().all()):
        raise ValueError(
            f"{side.title} answers {split} images of {data.name} with logits that are not finite"
        )
    return answers


def targets(data: ImageData, split: str) -> Tensor:
    """The labels of a split, int64 [N], on the CPU."""
    chunks = [data.eval_batch(split, chunk.start, chunk.stop).target for chunk in data.eval_chunks(split)]
    return torch.cat(chunks).cpu()
