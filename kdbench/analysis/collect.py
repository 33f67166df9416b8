"""The outputs of a network on a whole split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdbench.analysis.networks import Side
from kdbench.data.images.image_data import ImageData


@dataclass(frozen=True)
class SplitOutputs:
    """The outputs of a network on a split, on the CPU.

    Attributes:
        logits: float64 [N, C].
        features: The classifier's input, float32 [N, D]; None if the network reports none.
    """

    logits: Tensor
    features: Tensor | None


@torch.no_grad()
def collect(side: Side, data: ImageData, split: str) -> SplitOutputs:
    """Run a network in float32 on every row of a split, without augmentation.

    Raises:
        ValueError: A logit is not finite.
    """
    wanted = tuple(name for name in ("pooled",) if name in side.features)
    side.module.to(data.device)
    logits, features = [], []
    for chunk in data.eval_chunks(split):
        outputs = side.answer(data.eval_batch(split, chunk.start, chunk.stop), wanted)
        logits.append(outputs.logits.cpu())
        features += [outputs.features[name].flatten(1).cpu() for name in wanted]
    outputs_of_split = SplitOutputs(torch.cat(logits).double(), torch.cat(features) if features else None)
    if not bool(outputs_of_split.logits.isfinite().all()):
        raise ValueError(
            f"{side.title}: its logits for {split} images of {data.name} are not finite; check the weights"
        )
    return outputs_of_split


def targets(data: ImageData, split: str) -> Tensor:
    """Return the labels of a split, int64 [N], on the CPU."""
    chunks = [data.eval_batch(split, chunk.start, chunk.stop).target for chunk in data.eval_chunks(split)]
    return torch.cat(chunks).cpu()
