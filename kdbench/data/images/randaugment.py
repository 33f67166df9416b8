"""The strong view of MLKD (Jin et al. 2023): RandAugment(2, 10), then a square cut out.

Each row has draws of its own, and rows that drew the same operation go through torchvision's function together:
an image at a time would cost more than a small student's step. Operations and magnitudes are torchvision's
RandAugment (magnitude 10 of 31), which differ a little from the authors'.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kdbench.utils.seeding import derive, draw_integers

OPERATIONS = 2
"""For each row, one after the other."""

LARGEST_CUT = 0.5
"""Of the image's side."""


def _changes(width: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """RandAugment's operations at magnitude 10 of 31, each with its two signs where it has any."""
    share = 10 / 30
    signed: list[Callable[[Tensor], Tensor]] = []
    for sign in (1, -1):
        slide, shear = sign * int(150 / 331 * width * share), sign * 0.3 * share
        signed += [
            partial(_affine, shear_x=shear),
            partial(_affine, shear_y=shear),
            partial(_affine, x=slide),
            partial(_affine, y=slide),
            partial(F.rotate, angle=sign * 30 * share),
            partial(F.adjust_brightness, brightness_factor=1 + sign * 0.9 * share),
            partial(F.adjust_saturation, saturation_factor=1 + sign * 0.9 * share),
            partial(F.adjust_contrast, contrast_factor=1 + sign * 0.9 * share),
            partial(F.adjust_sharpness, sharpness_factor=1 + sign * 0.9 * share),
        ]
    plain: list[Callable[[Tensor], Tensor]] = [lambda images: images, F.autocontrast, F.equalize]
    plain += [partial(F.posterize, bits=7), partial(F.solarize, threshold=255 * (1 - share))]
    return (*signed, *plain, *plain)  # twice, so that every operation has the same chance


def _affine(images: Tensor, shear_x: float = 0.0, shear_y: float = 0.0, x: int = 0, y: int = 0) -> Tensor:
    """Shear (a slope, about the upper left corner) and shift (pixels) of uint8 [B, 3, H, W]."""
    degrees = [torch.tensor(slope).atan().rad2deg().item() for slope in (shear_x, shear_y)]
    corner = [0.0, 0.0] if shear_x or shear_y else None
    moved: Tensor = F.affine(
        images, angle=0.0, translate=[float(x), float(y)], scale=1.0, shear=degrees, center=corner
    )
    return moved


def randaugment_cutout(images: Tensor, key: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> the same, each row changed as (key, its index, its occurrence) say."""
    changes = _changes(images.shape[-1])
    for turn in range(OPERATIONS):
        drawn = draw_integers(derive(key, "operation", turn), index, occurrence, below=len(changes)).cpu()
        changed = images.clone()
        for number in sorted(set(drawn.tolist())):
            rows = (drawn == number).nonzero().flatten().to(images.device)
            changed[rows] = changes[number](images[rows])
        images = changed
    return cut_out(images, derive(key, "cutout"), index, occurrence)


def cut_out(images: Tensor, key: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """Black squares of a side up to half the image's, centred anywhere: uint8 [B, 3, H, W]."""
    height, width = images.shape[-2:]
    ranges = {"side": int(LARGEST_CUT * min(height, width)) + 1, "y": height, "x": width}
    draws = [
        draw_integers(derive(key, what), index, occurrence, below=below) for what, below in ranges.items()
    ]
    side, y, x = (draw[:, None] for draw in draws)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    tall = (rows >= y - side // 2) & (rows < y - side // 2 + side)
    wide = (columns >= x - side // 2) & (columns < x - side // 2 + side)
    return images.masked_fill((tall[:, :, None] & wide[:, None, :])[:, None], 0)
