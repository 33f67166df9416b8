"""A tree of image files as a data set: train/<class>/*, test/<class>/*."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from PIL import Image

from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import DataError, Encoded, ImageSet, Splits, check_fits, check_set, decode
from kdbench.data.images.options import ImageOptions

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def folder(
    *,
    path: str,
    size: int = 64,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    **options: Unpack[ImageOptions],
) -> ImageData:
    """An image tree held in memory, resized to `size` pixels square; named after its folder."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"dataset.path={path}: there is no such folder")
    name, train = root.resolve().name, root / "train"
    return ImageData(
        partial(load_folder, path, size),
        name=name,
        label_space=name,
        class_names=[entry.name for entry in _visible(train)] if train.is_dir() else None,
        mean=mean,
        std=std,
        **options,
    )


def load_folder(path: str, size: int) -> Splits:
    """Classes are the folders of train/ in alphabetical order; test/ must have the same ones."""
    root = Path(path).expanduser()
    if missing := [name for name in ("train", "test") if not (root / name).is_dir()]:
        raise DataError(
            f"{root}: no folder {' or '.join(missing)}; expected train/<class>/* and test/<class>/*"
        )
    train, test = image_tree(root / "train"), image_tree(root / "test")
    if list(train) != list(test):
        raise DataError(f"{root}: train and test differ in the classes {sorted(set(train) ^ set(test))}")
    check_fits(sum(map(len, [*train.values(), *test.values()])), size)
    return Splits(_decoded(train, size, root / "train"), _decoded(test, size, root / "test"))


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def image_tree(split: Path) -> dict[str, list[Path]]:
    """The image files of each class folder; hidden ones are ignored, strays refused by name."""
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    tree = {}
    for class_folder in _visible(split):
        if not class_folder.is_dir():
            raise DataError(f"{class_folder}: not a class folder; expected {split}/<class>/*")
        tree[class_folder.name] = _visible(class_folder)
        if not tree[class_folder.name]:
            raise DataError(f"{class_folder}: the class folder is empty")
        if strays := [file for file in tree[class_folder.name] if file.suffix.lower() not in readable]:
            raise DataError(
                f"{strays[0]}: not an image file; remove or hide it ({len(strays)} such in its folder)"
            )
    if not tree:
        raise DataError(f"{split}: no class folders")
    return tree


def _decoded(tree: dict[str, list[Path]], size: int, where: Path) -> ImageSet:
    files = [file for members in tree.values() for file in members]
    labels = [label for label, members in enumerate(tree.values()) for _ in members]

    def fetch(rows: slice) -> list[Encoded]:
        return [(str(file), file.read_bytes()) for file in files[rows]]

    images = decode(fetch, len(files), size, resize=True)
    return check_set(ImageSet(images, torch.tensor(labels), tuple(tree)), str(where))
