"""ImageNet's views of image files: random resized crop and flip for training, centre crop for evaluation."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdbench.data.images.image_io import DataError, EncodedImage
from kdbench.utils.seeding import derive, draw_integers

_TRIES, _BITS = 10, 53
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Ranges of the area and of width over height, as in Szegedy et al. 2015, arXiv:1409.4842."""

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""


def draw_crops(seed: int, epoch: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """Draw the random numbers of each row's view, as a function of (seed, epoch, index, occurrence) alone.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 1.
        index: Image of each row, int64 [N].
        occurrence: How often the epoch has shown the image before, int64 [N].

    Returns:
        Uniform numbers in [0, 1), float64 [N, 4 * tries + 1]; the last one determines the flip.
    """
    position = torch.arange(4 * _TRIES + 1, device=index.device)
    key = derive(seed, "part", epoch)
    draws = draw_integers(key, index[:, None], occurrence[:, None], position[None, :], below=2**_BITS)
    numbers: Tensor = draws.double() / 2**_BITS
    return numbers


def crop_box(width: int, height: int, numbers: list[float]) -> Box:
    """Return the crop of torchvision's RandomResizedCrop for given uniform numbers.

    The first of ten draws of (area, ratio) that fits; otherwise the largest centred crop with a valid ratio.

    Args:
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        numbers: A row of `draw_crops`.
    """
    low, high = (math.log(ratio) for ratio in _RATIO)
    for attempt in range(_TRIES):
        area, ratio, down, right = numbers[4 * attempt : 4 * attempt + 4]
        size = width * height * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * area)
        aspect = math.exp(low + (high - low) * ratio)
        crop_width, crop_height = round(math.sqrt(size * aspect)), round(math.sqrt(size / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(down * (height - crop_height + 1)), int(right * (width - crop_width + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = width, height
    if width / height < _RATIO[0]:
        crop_height = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        crop_width = round(height * _RATIO[1])
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def random_view(encoded: EncodedImage, numbers: list[float], size: int) -> np.ndarray:
    """Return the view of an image file that a row of `draw_crops` determines: uint8 [size, size, 3]."""
    image = _open(encoded)
    crop = image.crop(crop_box(*image.size, numbers))  # before resizing: its filter must not see other pixels
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if numbers[-1] < 0.5 else pixels


def centre_view(encoded: EncodedImage, size: int, shorter: int) -> np.ndarray:
    """Scale the shorter side of an image file to `shorter` pixels and crop the centre: uint8 [size, size, 3]."""
    image = _open(encoded)
    width, height = image.size
    shortest = min(width, height)
    scaled = (int(shorter * width / shortest), int(shorter * height / shortest))
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _open(encoded: EncodedImage) -> Image.Image:
    """Open an image in RGB; DataError names a file that is none."""
    where, content = encoded
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable image ({error})") from error
