"""ImageNet-1k (Russakovsky et al. 2015, arXiv:1409.0575) and other large data sets, streamed from files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from kdbench.data.images.image_io import DataError, EncodedImage
from kdbench.data.images.options import ImageOptions
from kdbench.data.images.streamed_images import ImageFiles, StreamedImages
from kdbench.data.sources.folder import IMAGENET_MEAN, IMAGENET_STD, image_tree
from kdbench.data.sources.hub import cell_bytes, class_names, fetch_parts, find_column, find_split

if TYPE_CHECKING:
    from datasets import Dataset

HUB_NAME, FOLDER = "ILSVRC/imagenet-1k", "imagenet-1k"
_TEST_NAMES = ("val", "validation", "test")
"""Names of the test split. ImageNet's test labels are not public; its validation part serves as test."""


def imagenet(
    *,
    path: str | None = None,
    size: int = 224,
    shorter: int = 256,
    readers: int = 8,
    label_space: str = "imagenet",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    **options: Unpack[ImageOptions],
) -> StreamedImages:
    """Build ImageNet-1k from `path`, else $KDBENCH_DATA/imagenet-1k, else the hub (accept its terms first).

    Args:
        path: Folder with train/<class>/* and val/<class>/*, or with parquet files like the hub's.
        size: Height and width of views, in pixels.
        shorter: Length of the shorter side before the centre crop of evaluation, in pixels.
        readers: Number of threads that decode images.
        label_space: Name shared by data sets whose labels mean the same, for teachers.
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        **options: See `StreamedImages`.
    """
    return StreamedImages(
        partial(load, path),
        size=size,
        shorter=shorter,
        readers=readers,
        name="imagenet" if path is None else Path(path).expanduser().resolve().name,
        label_space=label_space,
        mean=mean,
        std=std,
        **options,
    )


def load(path: str | None) -> tuple[ImageFiles, ImageFiles]:
    """Return the training and test files.

    Raises:
        DataError: If the folder has neither layout, or the splits differ in their classes.
    """
    folder = Path(path).expanduser() if path else Path(os.environ.get("KDBENCH_DATA", "")) / FOLDER
    if path and not folder.is_dir():
        raise DataError(f"dataset.path={path}: no such folder")
    if (folder / "train").is_dir() and not list(folder.glob("**/*.parquet")):
        test_folder = next((folder / name for name in _TEST_NAMES if (folder / name).is_dir()), None)
        if test_folder is None:
            raise DataError(f"{folder}: no folder {' or '.join(_TEST_NAMES)}; expected <class>/* in it")
        train, test = FolderFiles(folder / "train"), FolderFiles(test_folder)
        if train.classes != test.classes:
            raise DataError(f"{folder}: train and {test_folder.name} have different classes")
        return train, test
    parts = fetch_parts(str(folder) if folder.is_dir() else HUB_NAME)
    train_rows, test_rows = (find_split(parts, HUB_NAME, names) for names in (("train",), _TEST_NAMES))
    return HubFiles(train_rows), HubFiles(test_rows)


class FolderFiles:
    """Image files <class>/* of a folder.

    Classes are in alphabetical order, which for ImageNet's wnids is the order of the labels.
    """

    def __init__(self, folder: Path) -> None:
        files_of = image_tree(folder)
        self._files = [file for files in files_of.values() for file in files]
        counts = torch.tensor([len(files) for files in files_of.values()])
        self.classes = tuple(files_of)
        self.labels = torch.arange(len(files_of)).repeat_interleave(counts)
        self.sizes: Sequence[int] = [file.stat().st_size for file in self._files]

    def read(self, row: int) -> EncodedImage:
        """Return the name and the bytes of a file."""
        return str(self._files[row]), self._files[row].read_bytes()


class HubFiles:
    """Image files in the memory-mapped rows of a hub data set."""

    def __init__(self, part: Dataset) -> None:
        from datasets import Image
        from pyarrow import compute

        image, label = (find_column(part, HUB_NAME, kind) for kind in ("Image", "ClassLabel"))
        self.classes = class_names(part, label)
        self.labels: Tensor = torch.tensor(list(part[label]), dtype=torch.int64)
        self._column = part.cast_column(image, Image(decode=False))[image]
        self._split = str(part.split)
        encoded = compute.struct_field(part.data.column(image), "bytes")
        self.sizes: Sequence[int] = compute.binary_length(encoded).to_pylist()

    def read(self, row: int) -> EncodedImage:
        """Return the name and the bytes of a row's image."""
        return f"{self._split}, row {row}", cell_bytes(self._column[row])
