"""The views of ImageNet: a random part of an image at one size, flipped or not; and its centre, for evaluation."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdbench.data.images.image_io import DataError, Encoded
from kdbench.utils.seeding import derive, draw_integers

_TRIES, _BITS = 10, 53
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""The part of the area, and width over height, as everybody has them since Szegedy et al. 2015, arXiv:1409.4842."""

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""


def draw_parts(seed: int, epoch: int, index: Tensor, occurrence: Tensor) -> Tensor:
    """What decides a view of each row: uniform numbers in [0, 1), float64 [N, 4 * tries + 1], the last for the flip; a
    function of (seed, epoch, index [N], occurrence [N]) alone."""
    place = torch.arange(4 * _TRIES + 1, device=index.device)
    key = derive(seed, "part", epoch)
    drawn = draw_integers(key, index[:, None], occurrence[:, None], place[None, :], below=2**_BITS)
    numbers: Tensor = drawn.double() / 2**_BITS
    return numbers


def part_of(width: int, height: int, numbers: list[float]) -> Box:
    """The part of an image of that size: torchvision's RandomResizedCrop, on given uniform numbers.

    Of ten draws of (area, ratio) the first that fits; else the largest centred part whose ratio is allowed.
    """
    low, high = (math.log(ratio) for ratio in _RATIO)
    for tried in range(_TRIES):
        area, ratio, down, right = numbers[4 * tried : 4 * tried + 4]
        size = width * height * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * area)
        aspect = math.exp(low + (high - low) * ratio)
        across, along = round(math.sqrt(size * aspect)), round(math.sqrt(size / aspect))
        if 0 < across <= width and 0 < along <= height:
            top, left = int(down * (height - along + 1)), int(right * (width - across + 1))
            return left, top, left + across, top + along
    across, along = width, height
    if width / height < _RATIO[0]:
        along = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        across = round(height * _RATIO[1])
    left, top = (width - across) // 2, (height - along) // 2
    return left, top, left + across, top + along


def view_of_file(encoded: Encoded, numbers: list[float], size: int) -> np.ndarray:
    """The view of an image file that the numbers decide: uint8 [size, size, 3]."""
    image = _open(encoded)
    part = image.crop(part_of(*image.size, numbers))  # cut first: a filter must not look beyond the part
    pixels = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if numbers[-1] < 0.5 else pixels


def centre_of_file(encoded: Encoded, size: int, shorter: int) -> np.ndarray:
    """The centre of an image file whose shorter side is scaled to `shorter` pixels: uint8 [size, size, 3]."""
    image = _open(encoded)
    width, height = image.size
    least = min(width, height)
    scaled = (int(shorter * width / least), int(shorter * height / least))
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _open(encoded: Encoded) -> Image.Image:
    """The image in RGB. DataError names a file that is none."""
    where, content = encoded
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable image ({error})") from error
