"""The strong view of MLKD (Jin et al. 2023): RandAugment, then a square cut out."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

from kdbench.seeding import derive, draw_integers, drawn_from

OPERATIONS, MAGNITUDE = 2, 10
"""RandAugment(2, 10); of torchvision's 31 magnitudes and its operations, which differ a little from the authors'."""

LARGEST_CUT = 0.5
"""Of the image's side."""


def randaugment_cutout(images: Tensor, key: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> the same, each row changed as (key, its index, its occurrence) say.

    Image by image, for torchvision draws one change for a whole batch.
    """
    augment = RandAugment(OPERATIONS, MAGNITUDE)
    changed = []
    for image, *place in zip(images, index.tolist(), occurrence.tolist(), strict=True):
        with drawn_from(key, "randaugment", *place):
            changed.append(augment(image))
    return cut_out(torch.stack(changed), derive(key, "cutout"), index, occurrence)


def cut_out(images: Tensor, key: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """Black squares of a side up to half the image's, centred anywhere: uint8 [B, 3, H, W]."""
    height, width = images.shape[-2:]
    draws = [
        draw_integers(derive(key, what), index, occurrence, below=n)
        for what, n in (("side", int(LARGEST_CUT * min(height, width)) + 1), ("y", height), ("x", width))
    ]
    side, y, x = (draw[:, None] for draw in draws)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    tall = (rows >= y - side // 2) & (rows < y - side // 2 + side)
    wide = (columns >= x - side // 2) & (columns < x - side // 2 + side)
    return images.masked_fill((tall[:, :, None] & wide[:, None, :])[:, None], 0)
