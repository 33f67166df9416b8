"""Any image classification data set of the Hugging Face hub, or a local folder that `load_dataset` reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import DataError, Encoded, ImageSet, Splits, check_fits, check_set, decode
from kdbench.data.images.options import ImageOptions
from kdbench.data.sources.folder import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_TEST_NAMES = ("test", "validation", "valid", "val")
_PATIENCE = 4.0
"""Seconds until the hub counts as out of reach; its own client would retry for half a minute."""


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
    """A hub data set held in memory, resized to `size` pixels square."""
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
    """Two splits of a data set; columns and the test split are found by type and name where not given.

    DataError within about ten seconds if the hub is out of reach and the data set is not in its cache.
    """
    parts = fetch_parts(name, config_name)
    train = find_split(parts, name, (train_split,))
    test = find_split(parts, name, (test_split,) if test_split else _TEST_NAMES)
    image = image_column or find_column(train, name, "Image", "image_column")
    label = label_column or find_column(train, name, "ClassLabel", "label_column")
    if unknown := {image, label} - set(train.column_names):
        raise DataError(f"{name} has no column {', '.join(unknown)}; it has {', '.join(train.column_names)}")
    classes = class_names(train, label)
    check_fits(len(train) + len(test), size)
    whole = (image, label, classes, size, name)
    return Splits(_decoded(train, *whole), _decoded(test, *whole))


def fetch_parts(name: str, config_name: str | None = None) -> DatasetDict:
    """All splits of a data set of the hub, or of a local folder. DataError where neither is to be had."""
    from datasets import load_dataset, load_from_disk  # slow to import, and most data sets need it not

    local = Path(name).expanduser()
    try:
        if (local / "dataset_dict.json").is_file():
            return load_from_disk(str(local))
        if local.exists():
            return load_dataset(str(local), config_name)
        with nullcontext() if _hub_answers(name) else _offline():
            return load_dataset(name, config_name)
    # whatever the library and its file readers raise, the user learns which data set it was about
    except Exception as error:
        raise DataError(
            f"data set {name} is neither a readable folder nor to be had from the hub ({error})"
        ) from error


def _hub_answers(name: str) -> bool:
    """Whether the hub says anything about `name`, be it a refusal, within the time we give it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    answered = threading.Event()

    def ask() -> None:
        try:
            HfApi().dataset_info(name, timeout=_PATIENCE)
            answered.set()
        except HfHubHTTPError:
            answered.set()
        except Exception:
            return

    # in a thread, for a name look-up in a broken network ignores every time-out
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return answered.is_set()


@contextmanager
def _offline() -> Iterator[None]:
    """Within: only what the hub's cache holds. The environment variable is read at import, too early."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def find_split(parts: DatasetDict, name: str, wanted: Sequence[str]) -> Dataset:
    """The first of the wanted splits that is there; DataError where none is."""
    for split in wanted:
        if split in parts:
            return parts[split]
    raise DataError(f"{name} has no split {' or '.join(wanted)}; it has {', '.join(map(str, parts))}")


def find_column(part: Dataset, name: str, kind: str, option: str = "") -> str:
    """The only column of a type of features; DataError, with the option that chooses one, where there is no such."""
    found = [column for column, feature in part.features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        raise DataError(
            f"{name} has {len(found)} columns of type {kind} ({', '.join(found)}); "
            f"choose one of {', '.join(part.column_names)}" + (f" by {option}=..." if option else "")
        )
    return str(found[0])


def class_names(part: Dataset, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel; for a plain integer column its numbers from 0 to the largest."""
    feature = part.features[label]
    if hasattr(feature, "names"):
        return tuple(feature.names)
    if not str(getattr(feature, "dtype", "")).startswith(("int", "uint")):
        raise DataError(f"column {label} holds {feature}; a label column holds integers or a ClassLabel")
    return tuple(str(number) for number in range(max(part[label], default=0) + 1))


def _decoded(
    part: Dataset, image: str, label: str, classes: tuple[str, ...], size: int, name: str
) -> ImageSet:
    from datasets import Image

    where = f"{name}, {part.split}"
    column = part.cast_column(image, Image(decode=False))[image]

    def fetch(rows: slice) -> list[Encoded]:
        return [
            (f"{where}, row {row}", cell_bytes(cell)) for row, cell in enumerate(column[rows], rows.start)
        ]

    images = decode(fetch, len(part), size, resize=True)
    labels = torch.tensor(list(part[label]), dtype=torch.int64)
    return check_set(ImageSet(images, labels, classes), where)


def cell_bytes(cell: dict[str, Any]) -> bytes:
    """The bytes of an image cell, or of the file that it names."""
    return cell["bytes"] or Path(cell["path"]).read_bytes()
