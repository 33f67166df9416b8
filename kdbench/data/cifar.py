"""Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images": CIFAR-100."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kdbench.data.cifar_python import read_batch, read_names
from kdbench.data.hub import load_hub
from kdbench.data.images import DataError, ImageSet, Splits, check_set
from kdbench.data.module import ImageData
from kdbench.data.parquet import class_names, image_set, read_rows

HUB_NAME = "uoft-cs/cifar100"
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
ROWS = {"train": 50_000, "test": 10_000}
_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(_NAMES.split())
"""The official order, so that a label means the same to every teacher."""

_SUPPLY = f"""CIFAR-100 can be supplied in three ways:
  1. train-*.parquet and test-*.parquet of {HUB_NAME}, in dataset.path=FOLDER or $KDBENCH_DATA/cifar100
  2. the authors' cifar-100-python folder (train, test, meta), in the same place
  3. a network connection: {HUB_NAME} is then downloaded from the Hugging Face hub
To try things out without any of them: dataset=cifar100_mini"""


def cifar100(
    *,
    seed: int,
    batch_size: int,
    path: str | None = None,
    validation: int = 0,
    validation_seed: int = 0,
    padding: int = 4,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    eval_batch_size: int = 500,
) -> ImageData:
    """CIFAR-100 as the field uses it: all 50,000 images for training unless a validation part is cut."""
    return ImageData(
        partial(load_cifar100, path),
        name="cifar100",
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


def load_cifar100(path: str | None = None) -> Splits:
    """The first found of: parquet files or the authors' files in `path` or $KDBENCH_DATA/cifar100, the hub.

    DataError says what is wrong, where it looked, and how the data can be supplied.
    """
    places = _places(path)
    looked = ", ".join(map(str, places)) or "no folder, for neither dataset.path nor KDBENCH_DATA is set"
    try:
        return _load_first(places)
    except DataError as error:
        raise DataError(f"CIFAR-100 cannot be loaded: {error}\nLooked in: {looked}\n{_SUPPLY}") from error


def _places(path: str | None) -> list[Path]:
    if path:
        base = Path(path).expanduser()
    elif root := os.environ.get("KDBENCH_DATA"):
        base = Path(root).expanduser() / "cifar100"
    else:
        return []
    return [base, base / "cifar100", base / "cifar-100-python"]


def _load_first(places: list[Path]) -> Splits:
    for folder in places:
        if any(folder.glob("*.parquet")):
            return Splits(_read_parquet(folder, "train"), _read_parquet(folder, "test"))
        if any((folder / name).is_file() for name in ("train", "test", "meta")):
            return Splits(_read_python(folder, "train"), _read_python(folder, "test"))
    if places:
        logging.getLogger(__name__).warning("no CIFAR-100 in %s; trying the hub (%s)", places[0], HUB_NAME)
    splits = load_hub(HUB_NAME, image_column="img", label_column="fine_label", test_split="test", size=32)
    return Splits(_checked(splits.train, HUB_NAME, "train"), _checked(splits.test, HUB_NAME, "test"))


def _read_parquet(folder: Path, split: str) -> ImageSet:
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise DataError(f"{folder}: there are parquet files, but none named {split}*.parquet")
    table = read_rows(files, ("img", "fine_label", "coarse_label"))
    where = str(folder / f"{split}*.parquet")
    if table.num_rows != ROWS[split]:
        raise DataError(
            f"{where}: expected {ROWS[split]} rows, found {table.num_rows} in {len(files)} file(s)"
        )
    classes = class_names(table, "fine_label") or CLASSES
    return _checked(image_set(table, "img", "fine_label", classes, 32, where), where, split)


def _read_python(folder: Path, split: str) -> ImageSet:
    images, labels = read_batch(folder / split)
    return _checked(ImageSet(images, labels, read_names(folder / "meta")), str(folder / split), split)


def _checked(part: ImageSet, where: str, split: str) -> ImageSet:
    if part.classes != CLASSES:
        raise DataError(f"{where}: the fine label names are not CIFAR-100's, in its order")
    return check_set(part, where, ROWS[split])
