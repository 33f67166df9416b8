"""A made-up data set for unit tests: tiny, deterministic, and easy to learn."""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import torch

from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import ImageSet, Splits
from kdbench.data.images.options import ImageOptions
from kdbench.utils.seeding import generator


def fake(
    *,
    classes: int = 4,
    train: int = 64,
    test: int = 32,
    size: int = 32,
    data_seed: int = 0,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.25, 0.25, 0.25),
    **options: Unpack[ImageOptions],
) -> ImageData:
    """Noisy copies of one pattern per class; `data_seed` draws them, `seed` only orders them."""
    if min(classes, train, test, size) < 1:
        raise ValueError(
            f"classes, train, test, size must be at least 1, got {classes}, {train}, {test}, {size}"
        )
    return ImageData(
        partial(load_fake, classes, train, test, size, data_seed),
        name="fake",
        label_space=f"fake{classes}",
        class_names=_names(classes),
        mean=mean,
        std=std,
        **options,
    )


def load_fake(classes: int = 4, train: int = 64, test: int = 32, size: int = 32, seed: int = 0) -> Splits:
    """A random colour and coarse pattern per class, plus noise; labels go round the classes."""
    draw = generator(seed, "fake")
    colours = torch.randint(32, 160, (classes, 3, 1, 1), generator=draw)
    blocks = torch.randint(0, 64, (classes, 3, 4, 4), generator=draw)
    cell = torch.arange(size) * 4 // size
    patterns = colours + blocks[:, :, cell][..., cell]
    names = _names(classes)

    def part(rows: int) -> ImageSet:
        labels = torch.arange(rows) % classes
        noise = torch.randint(0, 32, (rows, 3, size, size), generator=draw)
        return ImageSet((patterns[labels] + noise).to(torch.uint8), labels, names)

    return Splits(part(train), part(test))


def _names(classes: int) -> tuple[str, ...]:
    return tuple(f"class{number}" for number in range(classes))
