"""Labelled images in memory: their types, their checks, and the decoding of image files."""

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

Encoded = tuple[str, bytes]
"""An image file: where it comes from (for messages) and its bytes."""

_ROWS_PER_TASK = 64


class DataError(ValueError):
    """A data set is missing, broken, or does not fit; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """images: uint8 [N, 3, H, W]; labels: int64 [N], positions in `classes`."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Splits:
    """What every data set offers; both parts have the same classes and image size.

    authors_order: whether the images come in the order of the files that the data set's authors distribute.
    """

    train: ImageSet
    test: ImageSet
    authors_order: bool = False


def fingerprint(splits: Splits) -> str:
    """sha256 of the pixels and labels of both parts, in their order."""
    digest = hashlib.sha256()
    for part in (splits.train, splits.test):
        digest.update(repr(tuple(part.images.shape)).encode())
        digest.update(part.images.contiguous().numpy())
        digest.update(part.labels.numpy())
    return digest.hexdigest()


def check_set(part: ImageSet, where: str, rows: int | None = None) -> ImageSet:
    """The part itself, if its shapes and labels hold together; `where` names it in the DataError."""
    shape = tuple(part.images.shape)
    if part.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
        raise DataError(f"{where}: expected images uint8 [N, 3, H, W], got {part.images.dtype} {list(shape)}")
    if len(part) != shape[0]:
        raise DataError(f"{where}: {shape[0]} images but {len(part)} labels")
    if len(part) == 0 or (rows is not None and len(part) != rows):
        raise DataError(f"{where}: expected {rows or 'at least 1'} rows, found {len(part)}")
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= len(part.classes):
        raise DataError(f"{where}: labels must lie in 0..{len(part.classes) - 1}, found {low}..{high}")
    return part


def decode(fetch: Callable[[slice], list[Encoded]], rows: int, size: int, *, resize: bool) -> Tensor:
    """`rows` image files as uint8 [rows, 3, size, size] in RGB; `fetch` reads a run of them.

    With `resize` the shorter side is scaled to `size` (bicubic) and the centre kept; without it every image
    must have that size already. DataError names the first file that is no image or has the wrong size.
    """
    pixels = np.empty((rows, size, size, 3), dtype=np.uint8)

    def fill(start: int) -> None:
        for row, encoded in enumerate(fetch(slice(start, min(start + _ROWS_PER_TASK, rows))), start):
            pixels[row] = np.asarray(_decode_one(encoded, size, resize))

    # small images as they are: Pillow holds the lock most of the time, and two threads were slower than one
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1) if resize else 1) as pool:
        for _ in pool.map(fill, range(0, rows, _ROWS_PER_TASK)):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _decode_one(encoded: Encoded, size: int, resize: bool) -> Image.Image:
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


def check_fits(rows: int, size: int, available: int | None = None) -> None:
    """DataError, with the size in GB, if `rows` square images do not fit in memory twice.

    Twice, because the padded copy is made while the images are still held.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    needed = 2 * rows * 3 * size**2
    free = available_bytes() if available is None else available
    if needed > free:
        raise DataError(
            f"{rows} images of {size}x{size} need {needed / 1e9:.1f} GB of memory while they are loaded, but "
            f"{free / 1e9:.1f} GB are available; choose a smaller `size` or fewer images"
        )


def available_bytes() -> int:
    """Memory that new tensors may take: what the system has left, within the container's limit."""
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
