"""Russakovsky et al. 2015, arXiv:1409.0575: ImageNet-1k, and other large data sets, read from files as they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from kdbench.data.images.image_io import DataError, Encoded
from kdbench.data.images.options import ImageOptions
from kdbench.data.images.streamed_images import Files, StreamedImages
from kdbench.data.sources.folder import IMAGENET_MEAN, IMAGENET_STD, image_tree
from kdbench.data.sources.hub import cell_bytes, class_names, fetch_parts, find_column, find_split

if TYPE_CHECKING:
    from datasets import Dataset

HUB_NAME, FOLDER = "ILSVRC/imagenet-1k", "imagenet-1k"
_TEST_NAMES = ("val", "validation", "test")
"""ImageNet's own test labels are not public: what everybody calls test is its validation part."""


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
    """Found in `path`, else in $KDBENCH_DATA/imagenet-1k, else from the hub (which wants its terms accepted).

    path: a tree train/<class>/*, val/<class>/*; or a folder of parquet files as the hub has them.
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


def load(path: str | None) -> tuple[Files, Files]:
    """The files of training and test. DataError says where they were looked for."""
    place = Path(path).expanduser() if path else Path(os.environ.get("KDBENCH_DATA", "")) / FOLDER
    if path and not place.is_dir():
        raise DataError(f"dataset.path={path}: there is no such folder")
    if (place / "train").is_dir() and not list(place.glob("**/*.parquet")):
        test = next((place / name for name in _TEST_NAMES if (place / name).is_dir()), None)
        if test is None:
            raise DataError(f"{place}: no folder {' or '.join(_TEST_NAMES)}; expected <class>/* in it")
        train, tested = Tree(place / "train"), Tree(test)
        if train.classes != tested.classes:
            raise DataError(f"{place}: train and {test.name} differ in their classes")
        return train, tested
    parts = fetch_parts(str(place) if place.is_dir() else HUB_NAME)
    return Rows(find_split(parts, HUB_NAME, ("train",))), Rows(find_split(parts, HUB_NAME, _TEST_NAMES))


class Tree:
    """<class>/* of a folder; classes in alphabetical order, which for ImageNet's wnids is the order of its labels."""

    def __init__(self, folder: Path) -> None:
        members = image_tree(folder)
        self._files = [file for files in members.values() for file in files]
        counts = torch.tensor([len(files) for files in members.values()])
        self.classes = tuple(members)
        self.labels = torch.arange(len(members)).repeat_interleave(counts)
        self.sizes: Sequence[int] = [file.stat().st_size for file in self._files]

    def read(self, row: int) -> Encoded:
        """The bytes of a file."""
        return str(self._files[row]), self._files[row].read_bytes()


class Rows:
    """The rows of a data set of the hub's, which keeps them in a file that is mapped into memory."""

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

    def read(self, row: int) -> Encoded:
        """The bytes of a cell."""
        return f"{self._split}, row {row}", cell_bytes(self._column[row])
