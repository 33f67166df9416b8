"""Image classification data sets of the Hugging Face hub, or of local folders that `load_dataset` reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

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
from kdbench.data.sources.folder import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_TEST_NAMES = ("test", "validation", "valid", "val")
_TIMEOUT = 4.0
"""Seconds until the hub counts as unreachable; its own client retries for half a minute."""


def hub(
    *,
    name: str,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str = "train",
    test_split: str | None = None,
    size: int = 64,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    **options: Unpack[ImageOptions],
) -> ImageData:
    """Build a data set of the hub, whose images are resized and kept in memory.

    Args:
        name: Name on the hub, or a local folder.
        config_name: Configuration of the data set, if it has several.
        image_column: Column of images; by default the only one of type Image.
        label_column: Column of labels; by default the only one of type ClassLabel.
        train_split: Name of the training split.
        test_split: Name of the test split; by default test or validation.
        size: Height and width of all images, in pixels.
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        **options: See `ImageData`.
    """
    return ImageData(
        partial(load_hub, name, size, config_name, image_column, label_column, train_split, test_split),
        name=name,
        label_space=name.strip("/").replace("/", "--"),
        mean=mean,
        std=std,
        **options,
    )


def load_hub(
    name: str,
    size: int,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str = "train",
    test_split: str | None = None,
) -> Splits:
    """Load both splits of a data set; arguments as in `hub`.

    Raises:
        DataError: If splits or columns are missing, or within about ten seconds if the hub is unreachable and the
            data set is not in its cache.
    """
    parts = fetch_parts(name, config_name)
    train = find_split(parts, name, (train_split,))
    test = find_split(parts, name, (test_split,) if test_split else _TEST_NAMES)
    image = image_column or find_column(train, name, "Image", "image_column")
    label = label_column or find_column(train, name, "ClassLabel", "label_column")
    if unknown := {image, label} - set(train.column_names):
        raise DataError(f"{name} has no column {', '.join(unknown)}; it has {', '.join(train.column_names)}")
    classes = class_names(train, label)
    check_memory(len(train) + len(test), size)
    arguments = (image, label, classes, size, name)
    return Splits(_decode_split(train, *arguments), _decode_split(test, *arguments))


def fetch_parts(name: str, config_name: str | None = None) -> DatasetDict:
    """Return all splits of a local folder or a data set of the hub.

    Raises:
        DataError: If neither can be loaded.
    """
    from datasets import load_dataset, load_from_disk  # slow import that most data sets do not need

    local = Path(name).expanduser()
    try:
        if (local / "dataset_dict.json").is_file():
            return load_from_disk(str(local))
        if local.exists():
            return load_dataset(str(local), config_name)
        with nullcontext() if _is_hub_reachable(name) else _offline():
            return load_dataset(name, config_name)
    # the library and its file readers raise many types
    except Exception as error:
        raise DataError(
            f"data set {name} is neither a readable folder nor available on the hub ({error})"
        ) from error


def _is_hub_reachable(name: str) -> bool:
    """Return whether the hub responds to a query about `name`, even with an error, before a time-out."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    has_response = threading.Event()

    def query() -> None:
        try:
            HfApi().dataset_info(name, timeout=_TIMEOUT)
            has_response.set()
        except HfHubHTTPError:
            has_response.set()
        except Exception:
            return

    # in a thread, because DNS queries in a broken network ignore time-outs
    thread = threading.Thread(target=query, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return has_response.is_set()


@contextmanager
def _offline() -> Iterator[None]:
    """Use only the hub's cache within a `with` block.

    The libraries read their environment variable at import, so it would have no effect here.
    """
    from datasets import config
    from huggingface_hub import constants

    previous = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = previous


def find_split(parts: DatasetDict, name: str, candidates: Sequence[str]) -> Dataset:
    """Return the first existing split of some candidates.

    Raises:
        DataError: If none exists.
    """
    for split in candidates:
        if split in parts:
            return parts[split]
    raise DataError(f"{name} has no split {' or '.join(candidates)}; it has {', '.join(map(str, parts))}")


def find_column(part: Dataset, name: str, kind: str, option: str = "") -> str:
    """Return the only column of a feature type.

    Args:
        part: Split of the data set.
        name: Name of the data set, for messages.
        kind: Feature type, `Image` or `ClassLabel`.
        option: Option that selects a column, for messages.

    Raises:
        DataError: If there is no such column, or more than one.
    """
    columns = [column for column, feature in part.features.items() if type(feature).__name__ == kind]
    if len(columns) != 1:
        raise DataError(
            f"{name} has {len(columns)} columns of type {kind} ({', '.join(columns)}); "
            f"choose one of {', '.join(part.column_names)}" + (f" by {option}=..." if option else "")
        )
    return str(columns[0])


def class_names(part: Dataset, label: str) -> tuple[str, ...]:
    """Return the names of a ClassLabel column; for an integer column the numbers from 0 to its maximum.

    Raises:
        DataError: If the column has another type.
    """
    feature = part.features[label]
    if hasattr(feature, "names"):
        return tuple(feature.names)
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint")):
        raise DataError(f"column {label} has type {feature}; labels must be integers or a ClassLabel")
    return tuple(str(number) for number in range(max(part[label], default=0) + 1))


def _decode_split(
    part: Dataset, image: str, label: str, classes: tuple[str, ...], size: int, name: str
) -> ImageSet:
    from datasets import Image

    where = f"{name}, {part.split}"
    column = part.cast_column(image, Image(decode=False))[image]

    def fetch(rows: slice) -> list[EncodedImage]:
        return [
            (f"{where}, row {row}", cell_bytes(cell)) for row, cell in enumerate(column[rows], rows.start)
        ]

    images = decode(fetch, len(part), size, resize=True)
    labels = torch.tensor(list(part[label]), dtype=torch.int64)
    return check_set(ImageSet(images, labels, classes), where)


def cell_bytes(cell: dict[str, Any]) -> bytes:
    """Return the bytes of an image cell, or of the file that it names."""
    return cell["bytes"] or Path(cell["path"]).read_bytes()
