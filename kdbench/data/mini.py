"""A real subset of CIFAR-100 (20 training and 10 test images per class) that is part of the package."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc

from kdbench.data.cifar import CLASSES, MEAN, STD
from kdbench.data.images import ImageSet, Splits, check_set
from kdbench.data.module import ImageData
from kdbench.data.parquet import image_set, read_rows

FILE = Path(__file__).parent / "mini" / "cifar100_mini.parquet"
PER_CLASS = {"train": 20, "test": 10}


def cifar100_mini(
    *,
    seed: int,
    batch_size: int,
    validation: int = 0,
    validation_seed: int = 0,
    padding: int = 4,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    eval_batch_size: int = 500,
) -> ImageData:
    """The shipped subset; its labels are CIFAR-100's, so teachers of CIFAR-100 serve it."""
    return ImageData(
        load_mini,
        name="cifar100_mini",
        label_space="cifar100",
        seed=seed,
        batch_size=batch_size,
        validation=validation,
        validation_seed=validation_seed,
        padding=padding,
        mean=mean,
        std=std,
        eval_batch_size=eval_batch_size,
    )


def load_mini() -> Splits:
    """2,000 training and 1,000 test images; scripts/make_cifar100_mini.py made the file."""
    return Splits(_part("train"), _part("test"))


def _part(split: str) -> ImageSet:
    table = read_rows([FILE], ("split", "img", "fine_label"))
    rows = table.filter(pc.equal(table.column("split"), split))
    where = f"{FILE}, {split}"
    part = image_set(rows, "img", "fine_label", CLASSES, 32, where)
    return check_set(part, where, PER_CLASS[split] * len(CLASSES))
