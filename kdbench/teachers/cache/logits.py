"""Stored logits of a teacher for views of the training images, computed once for all runs that draw these views.

A cache is filled by `kdbench.teachers.cache.writer`, sealed, and read-only from then on. A run reads one sealed cache
that has all of its views, or uses the live teacher, from start to end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from kdbench.core.types import Batch, Outputs
from kdbench.data.base import TaskData
from kdbench.data.images.image_data import ImageData
from kdbench.losses.composite import Loss
from kdbench.models.features import classifier
from kdbench.teachers.live import LiveTeacher
from kdbench.utils.hashing import digest
from kdbench.utils.paths import home

STORAGES = {"float16": torch.float16, "float32": torch.float32}
CARD, LOGITS, KEYS = "cache.json", "logits.bin", "keys.bin"


def cache_identity(teacher: LiveTeacher, data: TaskData) -> dict[str, Any]:
    """Return what stored answers depend on: teacher, precision and data; caches with another identity are not used."""
    return {
        "teacher": teacher.hash,
        "precision": teacher.precision,
        "data": data.fingerprint,
        "classes": data.num_classes,
        **data.cache_key,
    }


def caches_folder(teacher: LiveTeacher, data: TaskData) -> Path:
    """Return the folder of all caches of a teacher for a data set."""
    name = f"{data.name}-{teacher.name.replace('/', '--')}-{digest(cache_identity(teacher, data))[:8]}"
    return home() / "cache" / name


def why_not_cached(loss: Loss) -> str | None:
    """Return the reason why stored logits cannot serve a loss, or None."""
    for name, term in loss.terms.items():
        if term.needs_teacher and term.teacher_features:
            return f"{name} needs the teacher's features ({', '.join(term.teacher_features)})"
        if term.needs_teacher and term.views:
            return f"{name} needs a second augmented view of each image"
    return None


class SealedCache:
    """A sealed cache.

    Args:
        folder: The folder of the cache.

    Attributes:
        card: The description in the folder.
        storage: Number format of the answers.
        rows: The number of answers.

    Raises:
        ValueError: The folder holds no sealed cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.card: dict[str, Any] = json.loads((folder / CARD).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder} holds no sealed cache: {error}") from error
        self.storage: str = self.card["storage"]
        self.rows: int = self.card["rows"]

    @property
    def name(self) -> str:
        """The folder, relative to that of all caches."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def summary(self) -> dict[str, Any]:
        """The entry in the record of a run."""
        return {
            "cache": self.name,
            "storage": self.storage,
            "views": self.rows,
            "sha256": self.card["sha256"],
        }

    def verify(self) -> bool:
        """Return whether the files still have the checksums with which they were sealed."""
        files = {self.folder / name: known for name, known in self.card["sha256"].items()}
        return all(path.is_file() and checksum(path) == known for path, known in files.items())


class LogitsCache(SealedCache):
    """Logits for views of images, by view key.

    Raises:
        ValueError: The folder holds no sealed cache, or a file has the wrong size.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        dtype, classes = STORAGES[self.storage], self.card["subject"]["classes"]
        self._logits = map_file(folder / LOGITS, dtype, self.rows * classes).view(self.rows, classes)
        self._keys = None if self.card["complete"] else map_file(folder / KEYS, torch.int64, self.rows)

    def covers(self, keys: Tensor) -> bool:
        """Return whether the cache has every view, by keys int64 [N]."""
        if self._keys is None:
            return bool((keys < self.rows).all())
        row = torch.searchsorted(self._keys, keys).clamp(max=self.rows - 1)
        return bool((self._keys[row] == keys).all())

    def to(self, device: torch.device) -> Self:
        """Move the logits to a device; on the CPU they stay in their file."""
        if device != self._logits.device:
            self._logits = self._logits.to(device)
            self._keys = None if self._keys is None else self._keys.to(device)
        return self

    def logits(self, keys: Tensor) -> Tensor:
        """Return the logits, float32 [N, C], of views that the cache has, by keys int64 [N]."""
        row = keys if self._keys is None else torch.searchsorted(self._keys, keys)
        return self._logits.index_select(0, row).float()


class CachedTeacher:
    """A teacher whose answers to training batches are read from a cache; called like the live teacher."""

    def __init__(self, live: LiveTeacher, cache: LogitsCache, data: ImageData) -> None:
        self.cache, self._live, self._data = cache, live, data
        self.storage = cache.storage

    def __call__(self, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        """Return logits [N, C], without features and additional views."""
        assert batch.view is not None
        assert not features
        linear = classifier(self._live.model)
        weights = None if linear is None else (linear.weight, linear.bias)
        return Outputs(self.cache.logits(self._data.view_keys(batch.index, batch.view)), classifier=weights)


def sealed(teacher: LiveTeacher, data: ImageData) -> Iterator[LogitsCache]:
    """Yield the intact caches of a teacher for a data set, the more precise storage first."""
    identity = cache_identity(teacher, data)
    cards = sorted(caches_folder(teacher, data).glob(f"*/{CARD}"))
    for card in sorted(cards, key=lambda card: card.parent.name.rpartition("-")[2], reverse=True):
        try:
            cache = LogitsCache(card.parent)
        except ValueError:
            continue
        if cache.card["subject"] == identity:
            yield cache


def find(
    teacher: LiveTeacher, data: ImageData, seed: int, epochs: int, storage: str = "*"
) -> LogitsCache | None:
    """Return a sealed cache with all views that a run draws, or None.

    Args:
        teacher: The live teacher.
        data: The data, set up.
        seed: The seed of the run.
        epochs: Its epochs.
        storage: The number format of the cache; `*` for any.
    """
    keys = None
    for cache in sealed(teacher, data):
        if storage not in ("*", cache.storage):
            continue
        if keys is None:
            keys = data.views_of_run(seed, epochs)
        if cache.covers(keys):
            return cache
    return None


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_file(path: Path, dtype: torch.dtype, numbers: int) -> Tensor:
    """Return a memory-mapped tensor.

    Raises:
        ValueError: The file has another size.
    """
    expected = numbers * dtype.itemsize
    if not path.is_file() or path.stat().st_size != expected:
        raise ValueError(f"{path} should have {expected:,} bytes; delete the folder and fill it again")
    return torch.from_file(str(path), shared=False, size=numbers, dtype=dtype)
