"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images")."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

import torch

from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import DataError, ImageSet, Splits, check_set
from kdbench.data.images.options import ImageOptions
from kdbench.data.images.parquet import class_names, image_set, read_rows
from kdbench.data.sources.cifar_pickle import read_batch, read_names
from kdbench.data.sources.hub import load_hub

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


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets and the names of its files.

    Attributes:
        name: Name in options and records.
        title: Name for people.
        hub_name: Name on the Hugging Face hub.
        classes: Class names in the official order, so that labels mean the same to every teacher.
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel.
        columns: Columns of the parquet files: images, labels, then others.
        folder: Folder of the authors' files.
        files: The authors' files of each split, in their order.
        labels: Key of the labels in those files.
        names: The authors' file of class names.
        names_key: Key of the class names in that file.
    """

    name: str
    title: str
    hub_name: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    columns: tuple[str, ...]
    folder: str
    files: dict[str, tuple[str, ...]]
    labels: str
    names: str
    names_key: str

    @property
    def instructions(self) -> str:
        """Instructions for users who do not have the data."""
        files = [name for names in self.files.values() for name in names]
        return f"""{self.title} can be provided in three ways:
  1. train-*.parquet and test-*.parquet of {self.hub_name}, in dataset.path=FOLDER or $KDBENCH_DATA/{self.name}
  2. the authors' {self.folder} folder ({", ".join([*files, self.names])}), in the same place
  3. a network connection: {self.hub_name} is then downloaded from the Hugging Face hub
Without any of them, use dataset=cifar100_mini"""


CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    hub_name="uoft-cs/cifar100",
    classes=tuple(_NAMES.split()),
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    columns=("img", "fine_label", "coarse_label"),
    folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    labels="fine_labels",
    names="meta",
    names_key="fine_label_names",
)

CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    hub_name="uoft-cs/cifar10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    # widespread, and MCMI's: the mean of the deviations of single images; over all pixels it is 0.247, 0.243, 0.262
    std=(0.2023, 0.1994, 0.2010),
    columns=("img", "label"),
    folder="cifar-10-batches-py",
    files={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    labels="labels",
    names="batches.meta",
    names_key="label_names",
)


def cifar100(
    *,
    path: str | None = None,
    mean: Sequence[float] = CIFAR100.mean,
    std: Sequence[float] = CIFAR100.std,
    **options: Unpack[ImageOptions],
) -> ImageData:
    """Build CIFAR-100: 50,000 training images, minus a validation part on request, and 10,000 test images.

    Args:
        path: Folder of the files; by default $KDBENCH_DATA/cifar100, then the hub.
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        **options: See `ImageData`.

    Raises:
        ValueError: For invalid options; missing files raise DataError in `setup`.
    """
    return _image_data(CIFAR100, path, mean, std, options)


def cifar10(
    *,
    path: str | None = None,
    mean: Sequence[float] = CIFAR10.mean,
    std: Sequence[float] = CIFAR10.std,
    **options: Unpack[ImageOptions],
) -> ImageData:
    """Build CIFAR-10; arguments as in `cifar100`."""
    return _image_data(CIFAR10, path, mean, std, options)


def _image_data(
    kind: Cifar, path: str | None, mean: Sequence[float], std: Sequence[float], options: ImageOptions
) -> ImageData:
    return ImageData(
        partial(load_cifar, kind, path),
        name=kind.name,
        label_space=kind.name,
        class_names=kind.classes,
        mean=mean,
        std=std,
        **options,
    )


def load_cifar(kind: Cifar, path: str | None = None) -> Splits:
    """Load parquet files or the authors' files from `path` or $KDBENCH_DATA/NAME, else from the hub.

    Raises:
        DataError: If no valid data were found; the message lists the folders that were searched.
    """
    folders = _folders(kind, path)
    searched = (
        ", ".join(map(str, folders)) or "no folder, because neither dataset.path nor KDBENCH_DATA is set"
    )
    try:
        return _load_first(kind, folders)
    except DataError as error:
        raise DataError(
            f"{kind.title} cannot be loaded: {error}\nSearched: {searched}\n{kind.instructions}"
        ) from error


def _folders(kind: Cifar, path: str | None) -> list[Path]:
    if path:
        base = Path(path).expanduser()
    elif root := os.environ.get("KDBENCH_DATA"):
        base = Path(root).expanduser() / kind.name
    else:
        return []
    return [base, base / kind.name, base / kind.folder]


def _load_first(kind: Cifar, folders: list[Path]) -> Splits:
    authors_files = [*kind.files["train"], *kind.files["test"], kind.names]
    for folder in folders:
        if any(folder.glob("*.parquet")):
            return Splits(_read_parquet(kind, folder, "train"), _read_parquet(kind, folder, "test"))
        if any((folder / name).is_file() for name in authors_files):
            train, test = (_read_authors_files(kind, folder, split) for split in ("train", "test"))
            return Splits(train, test, authors_order=True)
    if folders:
        log = logging.getLogger(__name__)
        log.warning("no %s in %s; trying the hub (%s)", kind.title, folders[0], kind.hub_name)
    image, label = kind.columns[:2]
    splits = load_hub(kind.hub_name, image_column=image, label_column=label, test_split="test", size=32)
    train = _check_split(kind, splits.train, kind.hub_name, "train")
    return Splits(train, _check_split(kind, splits.test, kind.hub_name, "test"))


def _read_parquet(kind: Cifar, folder: Path, split: str) -> ImageSet:
    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise DataError(f"{folder}: no parquet file is named {split}*.parquet")
    table = read_rows(files, kind.columns)
    where = str(folder / f"{split}*.parquet")
    if table.num_rows != ROWS[split]:
        raise DataError(
            f"{where}: expected {ROWS[split]} rows, found {table.num_rows} in {len(files)} file(s)"
        )
    image, label = kind.columns[:2]
    classes = class_names(table, label) or kind.classes
    return _check_split(kind, image_set(table, image, label, classes, 32, where), where, split)


def _read_authors_files(kind: Cifar, folder: Path, split: str) -> ImageSet:
    batches = [read_batch(folder / name, kind.labels) for name in kind.files[split]]
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    names = read_names(folder / kind.names, kind.names_key)
    where = ", ".join(str(folder / name) for name in kind.files[split])
    return _check_split(kind, ImageSet(images, labels, names), where, split)


def _check_split(kind: Cifar, part: ImageSet, where: str, split: str) -> ImageSet:
    if part.classes != kind.classes:
        raise DataError(f"{where}: the class names or their order differ from those of {kind.title}")
    return check_set(part, where, ROWS[split])
