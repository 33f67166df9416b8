"""A synthetic data set for tests: tiny, deterministic and easy to learn."""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import torch

from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import ImageSet, Splits
from kdbench.data.images.options import ImageOptions
from kdbench.utils.seeding import generator
from kdbench.utils.validation import check_at_least


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
    """Build a data set of noisy copies of one pattern for each class.

    Args:
        classes: Number of classes.
        train: Number of training images.
        test: Number of test images.
        size: Height and width of the images, in pixels.
        data_seed: Seed of the images; the option `seed` determines only order and views.
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        **options: See `ImageData`.

    Raises:
        ValueError: If a number is less than 1.
    """
    check_at_least("dataset", 1, classes=classes, train=train, test=test, size=size)
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
    """Draw a random colour and a coarse pattern for each class, plus noise; labels cycle through the classes."""
    draw = generator(seed, "fake")
    colours = torch.randint(32, 160, (classes, 3, 1, 1), generator=draw)
    blocks = torch.randint(0, 64, (classes, 3, 4, 4), generator=draw)
    cell = torch.arange(size) * 4 // size
    patterns = colours + blocks[:, :, cell][..., cell]
    names = _names(classes)

    def draw_split(rows: int) -> ImageSet:
        labels = torch.arange(rows) % classes
        noise = torch.randint(0, 32, (rows, 3, size, size), generator=draw)
        return ImageSet((patterns[labels] + noise).to(torch.uint8), labels, names)

    return Splits(draw_split(train), draw_split(test))


def _names(classes: int) -> tuple[str, ...]:
    return tuple(f"class{number}" for number in range(classes))
