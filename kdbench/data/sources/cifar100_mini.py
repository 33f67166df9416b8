"""A real subset of CIFAR-100 (20 training and 10 test images per class) that is part of the package."""

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
    """The shipped subset; its labels are CIFAR-100's, so teachers of CIFAR-100 serve it."""
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
    """2,000 training and 1,000 test images; scripts/make_cifar100_mini.py made the file."""
    return Splits(_part("train"), _part("test"))


def _part(split: str) -> ImageSet:
    table = read_rows([FILE], ("split", "img", "fine_label"))
    rows = table.filter(pc.equal(table.column("split"), split))
    where = f"{FILE}, {split}"
    part = image_set(rows, "img", "fine_label", CIFAR100.classes, 32, where)
    return check_set(part, where, PER_CLASS[split] * len(CIFAR100.classes))
