"""Image files in folders: train/<class>/*, test/<class>/*."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

import torch
from PIL import Image

from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import (
    DataError,
    EncodedImage,
    ImageSet,
    Splits,
    check_memory,
    check_set,
    decode,
)
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
    """Build a data set from image files, which are resized and kept in memory; it is named after its folder.

    Args:
        path: Folder with train/<class>/* and test/<class>/*.
        size: Height and width of all images, in pixels.
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        **options: See `ImageData`.

    Raises:
        DataError: If there is no such folder.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"dataset.path={path}: no such folder")
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
    """Load both splits; classes are the folders of train/ in alphabetical order.

    Raises:
        DataError: If folders are missing or differ, files are no images, or memory is too small.
    """
    root = Path(path).expanduser()
    if missing := [name for name in ("train", "test") if not (root / name).is_dir()]:
        raise DataError(
            f"{root}: no folder {' or '.join(missing)}; expected train/<class>/* and test/<class>/*"
        )
    train, test = image_tree(root / "train"), image_tree(root / "test")
    if list(train) != list(test):
        raise DataError(
            f"{root}: these classes are in only one of train and test: {sorted(set(train) ^ set(test))}"
        )
    check_memory(sum(map(len, [*train.values(), *test.values()])), size)
    return Splits(_decode_tree(train, size, root / "train"), _decode_tree(test, size, root / "test"))


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def image_tree(split: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder; hidden files are ignored.

    Raises:
        DataError: If the folder has other files, or a class folder is empty.
    """
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    tree = {}
    for class_folder in _visible(split):
        if not class_folder.is_dir():
            raise DataError(f"{class_folder}: not a class folder; expected {split}/<class>/*")
        tree[class_folder.name] = _visible(class_folder)
        if not tree[class_folder.name]:
            raise DataError(f"{class_folder}: the class folder is empty")
        if others := [file for file in tree[class_folder.name] if file.suffix.lower() not in readable]:
            raise DataError(
                f"{others[0]}: not an image file; remove or hide it ({len(others)} such files in its folder)"
            )
    if not tree:
        raise DataError(f"{split}: no class folders")
    return tree


def _decode_tree(tree: dict[str, list[Path]], size: int, where: Path) -> ImageSet:
    files = [file for members in tree.values() for file in members]
    labels = [label for label, members in enumerate(tree.values()) for _ in members]

    def fetch(rows: slice) -> list[EncodedImage]:
        return [(str(file), file.read_bytes()) for file in files[rows]]

    images = decode(fetch, len(files), size, resize=True)
    return check_set(ImageSet(images, torch.tensor(labels), tuple(tree)), str(where))
