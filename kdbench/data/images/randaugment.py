"""The strong view of MLKD (Jin et al. 2023): RandAugment(2, 10) and Cutout.

Each row has its own draws. Rows with the same operation share one call of torchvision, because processing single
images would take longer than a step of a small student. Operations and magnitudes (10 of 31) are those of
torchvision's RandAugment, which differ slightly from the authors'.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kdbench.utils.seeding import derive, draw_integers

NUM_OPERATIONS = 2
"""Number of consecutive operations on each row."""

MAX_CUTOUT = 0.5
"""Largest side of the cutout, as a fraction of the image's shorter side."""


def _operations(width: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Return RandAugment's operations at magnitude 10 of 31, both signs of the signed ones."""
    from torchvision.transforms.v2 import functional as F  # here, because importing it takes a second

    magnitude = 10 / 30
    signed: list[Callable[[Tensor], Tensor]] = []
    for sign in (1, -1):
        shift, shear = sign * int(150 / 331 * width * magnitude), sign * 0.3 * magnitude
        signed += [
            partial(_affine, shear_x=shear),
            partial(_affine, shear_y=shear),
            partial(_affine, x=shift),
            partial(_affine, y=shift),
            partial(F.rotate, angle=sign * 30 * magnitude),
            partial(F.adjust_brightness, brightness_factor=1 + sign * 0.9 * magnitude),
            partial(F.adjust_saturation, saturation_factor=1 + sign * 0.9 * magnitude),
            partial(F.adjust_contrast, contrast_factor=1 + sign * 0.9 * magnitude),
            partial(F.adjust_sharpness, sharpness_factor=1 + sign * 0.9 * magnitude),
        ]
    plain: list[Callable[[Tensor], Tensor]] = [lambda images: images, F.autocontrast, F.equalize]
    plain += [partial(F.posterize, bits=7), partial(F.solarize, threshold=255 * (1 - magnitude))]
    return (*signed, *plain, *plain)  # twice, so that all operations are equally probable


def _affine(images: Tensor, shear_x: float = 0.0, shear_y: float = 0.0, x: int = 0, y: int = 0) -> Tensor:
    """Shear by a slope, about the upper left corner, and shift by pixels: uint8 [B, 3, H, W]."""
    from torchvision.transforms.v2 import functional as F

    degrees = [torch.tensor(slope).atan().rad2deg().item() for slope in (shear_x, shear_y)]
    corner = [0.0, 0.0] if shear_x or shear_y else None
    result: Tensor = F.affine(
        images, angle=0.0, translate=[float(x), float(y)], scale=1.0, shear=degrees, center=corner
    )
    return result


def randaugment_cutout(images: Tensor, key: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """Augment each image by draws that depend on (key, index, occurrence) alone.

    Args:
        images: uint8 [B, 3, H, W].
        key: Seed, e.g. from `derive`.
        index: Image of each row, int64 [B].
        occurrence: How often the epoch has shown the image before, int64 [B].

    Returns:
        uint8 [B, 3, H, W].
    """
    operations = _operations(images.shape[-1])
    for turn in range(NUM_OPERATIONS):
        choice = draw_integers(derive(key, "operation", turn), index, occurrence, below=len(operations)).cpu()
        result = images.clone()
        for number in sorted(set(choice.tolist())):
            rows = (choice == number).nonzero().flatten().to(images.device)
            result[rows] = operations[number](images[rows])
        images = result
    return cutout(images, derive(key, "cutout"), index, occurrence)


def cutout(images: Tensor, key: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """Black out a square of up to half the image's side, centred anywhere: uint8 [B, 3, H, W]; draws as above."""
    height, width = images.shape[-2:]
    ranges = {"side": int(MAX_CUTOUT * min(height, width)) + 1, "y": height, "x": width}
    draws = [
        draw_integers(derive(key, what), index, occurrence, below=below) for what, below in ranges.items()
    ]
    side, y, x = (draw[:, None] for draw in draws)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    in_rows = (rows >= y - side // 2) & (rows < y - side // 2 + side)
    in_columns = (columns >= x - side // 2) & (columns < x - side // 2 + side)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)
