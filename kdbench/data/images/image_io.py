"""Labelled images in memory: types, checks, and decoding of image files."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kdbench.utils.validation import check_at_least

EncodedImage = tuple[str, bytes]
"""An image file: its name, for messages, and its bytes."""

_ROWS_PER_TASK = 64


class DataError(ValueError):
    """A data set is missing, damaged or too large; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Labelled images of one split.

    Attributes:
        images: uint8 [N, 3, H, W].
        labels: int64 [N], positions in `classes`.
        classes: Names of all classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Splits:
    """Training and test images with the same classes and size.

    Attributes:
        train: Training images.
        test: Test images.
        authors_order: Whether the images are in the order of the files that the data set's authors distribute.
    """

    train: ImageSet
    test: ImageSet
    authors_order: bool = False


def fingerprint(splits: Splits) -> str:
    """Return the SHA-256 (hex) of the pixels and labels of both splits, in their order."""
    digest = hashlib.sha256()
    for part in (splits.train, splits.test):
        digest.update(repr(tuple(part.images.shape)).encode())
        digest.update(part.images.contiguous().numpy())
        digest.update(part.labels.numpy())
    return digest.hexdigest()


def check_set(part: ImageSet, where: str, rows: int | None = None) -> ImageSet:
    """Check shapes and labels of a split.

    Args:
        part: Images of the split.
        where: Name of the split, for messages.
        rows: Expected number of images.

    Returns:
        `part`.

    Raises:
        DataError: If shapes, number of rows or labels are wrong.
    """
    shape = tuple(part.images.shape)
    if part.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
        raise DataError(f"{where}: expected images uint8 [N, 3, H, W], got {part.images.dtype} {list(shape)}")
    if len(part) != shape[0]:
        raise DataError(f"{where}: {shape[0]} images but {len(part)} labels")
    if len(part) == 0 or (rows is not None and len(part) != rows):
        raise DataError(f"{where}: expected {rows or 'at least 1'} rows, found {len(part)}")
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= len(part.classes):
        raise DataError(f"{where}: labels must be in 0..{len(part.classes) - 1}, found {low}..{high}")
    return part


def decode(fetch: Callable[[slice], list[EncodedImage]], rows: int, size: int, *, resize: bool) -> Tensor:
    """Decode image files to RGB.

    Args:
        fetch: Reads the files of a slice of rows.
        rows: Number of files.
        size: Height and width of the result, in pixels.
        resize: Whether to scale the shorter side to `size` (bicubic) and crop the centre; otherwise all images
            must have that size.

    Returns:
        uint8 [rows, 3, size, size].

    Raises:
        DataError: If a file is no image or has another size; the message names it.
    """
    pixels = np.empty((rows, size, size, 3), dtype=np.uint8)

    def fill(start: int) -> None:
        for row, encoded in enumerate(fetch(slice(start, min(start + _ROWS_PER_TASK, rows))), start):
            pixels[row] = np.asarray(_decode_one(encoded, size, resize))

    # for small images Pillow holds the GIL most of the time: two threads were slower than one
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1) if resize else 1) as pool:
        for _ in pool.map(fill, range(0, rows, _ROWS_PER_TASK)):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _decode_one(encoded: EncodedImage, size: int, resize: bool) -> Image.Image:
    where, content = encoded
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened if opened.mode == "RGB" else opened.convert("RGB")
            if resize:
                return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable image ({error})") from error
    if image.size != (size, size):
        raise DataError(
            f"{where}: expected an image of {size}x{size} pixels, got {image.width}x{image.height}"
        )
    return image


def check_memory(rows: int, size: int, available: int | None = None) -> None:
    """Check that square images fit in memory twice, because padding makes a copy.

    Args:
        rows: Number of images.
        size: Height and width of the images, in pixels.
        available: Available memory in bytes; by default that of this machine.

    Raises:
        DataError: If they do not fit.
        ValueError: If the size is less than 1.
    """
    check_at_least("dataset", 1, size=size)
    needed = 2 * rows * 3 * size**2
    free = available_bytes() if available is None else available
    if needed > free:
        raise DataError(
            f"{rows} images of {size}x{size} need {needed / 1e9:.1f} GB of memory while they are loaded, but "
            f"{free / 1e9:.1f} GB are available; choose a smaller `size` or fewer images"
        )


def available_bytes() -> int:
    """Return the memory available to new tensors: that of the system, limited by the container."""
    return min(_memory_limits())


def _memory_limits() -> Iterator[int]:
    meminfo, cgroup = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        yield int(fields["MemAvailable"].removesuffix("kB")) * 1024
    else:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if cgroup.exists() and (limit := cgroup.read_text().strip()) != "max":
        yield int(limit)
