"""A subset of CIFAR-100 that is part of the package: 20 training and 10 test images of each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import pyarrow.compute as pc

from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import ImageSet, Splits, check_set
from kdbench.data.images.options import ImageOptions
from kdbench.data.images.parquet import image_set, read_rows
from kdbench.data.sources.cifar import CIFAR100

FILE = Path(__file__).parent / "shipped" / "cifar100_mini.parquet"
PER_CLASS = {"train": 20, "test": 10}


def cifar100_mini(
    *,
    mean: Sequence[float] = CIFAR100.mean,
    std: Sequence[float] = CIFAR100.std,
    **options: Unpack[ImageOptions],
) -> ImageData:
    """Build the subset; its labels are CIFAR-100's, so teachers of CIFAR-100 can be used.

    Args:
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        **options: See `ImageData`.
    """
    return ImageData(
        load_mini,
        name="cifar100_mini",
        label_space="cifar100",
        class_names=CIFAR100.classes,
        mean=mean,
        std=std,
        **options,
    )


def load_mini() -> Splits:
    """Load 2,000 training and 1,000 test images from the file that scripts/make_cifar100_mini.py wrote."""
    return Splits(_load_split("train"), _load_split("test"))


def _load_split(split: str) -> ImageSet:
    table = read_rows([FILE], ("split", "img", "fine_label"))
    rows = table.filter(pc.equal(table.column("split"), split))
    where = f"{FILE}, {split}"
    images = image_set(rows, "img", "fine_label", CIFAR100.classes, 32, where)
    return check_set(images, where, PER_CLASS[split] * len(CIFAR100.classes))
