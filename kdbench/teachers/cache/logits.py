"""Stored answers: a teacher's logits for views of the training images, computed once for every run that draws them.

A cache is filled by `kdbench.teachers.cache.writer`, sealed, and read-only from then on. A run is
served wholly from one sealed cache that has all of its views, or wholly by the live teacher.
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


def subject(teacher: LiveTeacher, data: TaskData) -> dict[str, Any]:
    """Whose answers to what: caches with another subject are never used."""
    return {
        "teacher": teacher.hash,
        "precision": teacher.precision,
        "data": data.fingerprint,
        "classes": data.num_classes,
        **data.cache_key,
    }


def place(teacher: LiveTeacher, data: TaskData) -> Path:
    """The folder of all caches with this subject."""
    name = f"{data.name}-{teacher.name.replace('/', '--')}-{digest(subject(teacher, data))[:8]}"
    return home() / "cache" / name


def obstacle(loss: Loss) -> str | None:
    """Why stored logits cannot serve a loss, or None."""
    for name, term in loss.terms.items():
        if term.needs_teacher and term.teacher_features:
            return f"{name} looks at the teacher's features ({', '.join(term.teacher_features)})"
        if term.needs_teacher and term.views:
            return f"{name} asks for a second, freely augmented view of each image"
    return None


class Sealed:
    """A sealed cache of one subject: `rows` answers in `storage`.

    Raises ValueError where the folder holds no sealed cache.
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
        """Its folder below the cache folder."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def summary(self) -> dict[str, Any]:
        """What the record of a run says of it."""
        return {
            "cache": self.name,
            "storage": self.storage,
            "views": self.rows,
            "sha256": self.card["sha256"],
        }

    def verify(self) -> bool:
        """Whether the files are, byte for byte, what was sealed."""
        files = {self.folder / name: known for name, known in self.card["sha256"].items()}
        return all(path.is_file() and checksum(path) == known for path, known in files.items())


class Cache(Sealed):
    """Logits for views of images, looked up by view key. Raises ValueError for files of another size, too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        dtype, classes = STORAGES[self.storage], self.card["subject"]["classes"]
        self._logits = mapped(folder / LOGITS, dtype, self.rows * classes).view(self.rows, classes)
        self._keys = None if self.card["complete"] else mapped(folder / KEYS, torch.int64, self.rows)

    def covers(self, keys: Tensor) -> bool:
        """Whether every view [N] is there."""
        if self._keys is None:
            return bool((keys < self.rows).all())
        row = torch.searchsorted(self._keys, keys).clamp(max=self.rows - 1)
        return bool((self._keys[row] == keys).all())

    def to(self, device: torch.device) -> Self:
        """Keep the logits where they are asked for; on the CPU they stay in their file."""
        if device != self._logits.device:
            self._logits = self._logits.to(device)
            self._keys = None if self._keys is None else self._keys.to(device)
        return self

    def logits(self, keys: Tensor) -> Tensor:
        """The stored logits, float32 [N, C], for views [N] that are covered."""
        row = keys if self._keys is None else torch.searchsorted(self._keys, keys)
        return self._logits.index_select(0, row).float()


class CachedTeacher:
    """A teacher's answers to training batches, read instead of computed; called as the live teacher is."""

    def __init__(self, live: LiveTeacher, cache: Cache, data: ImageData) -> None:
        self.cache, self._live, self._data = cache, live, data
        self.storage = cache.storage

    def __call__(self, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        """Logits [N, C]; there are no features and no further views."""
        assert batch.view is not None
        assert not features
        linear = classifier(self._live.model)
        weights = None if linear is None else (linear.weight, linear.bias)
        return Outputs(self.cache.logits(self._data.view_keys(batch.index, batch.view)), classifier=weights)


def sealed(teacher: LiveTeacher, data: ImageData) -> Iterator[Cache]:
    """All usable caches of this teacher's answers on this data, the finer storage first; without broken ones."""
    wanted = subject(teacher, data)
    there = sorted(place(teacher, data).glob(f"*/{CARD}"))
    for card in sorted(there, key=lambda card: card.parent.name.rpartition("-")[2], reverse=True):
        try:
            cache = Cache(card.parent)
        except ValueError:
            continue
        if cache.card["subject"] == wanted:
            yield cache


def find(teacher: LiveTeacher, data: ImageData, seed: int, epochs: int, storage: str = "*") -> Cache | None:
    """A sealed cache with all views that a run will draw, or None; of one storage alone, where that is not `*`."""
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
    """SHA-256 of a file of any size."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mapped(path: Path, dtype: torch.dtype, numbers: int) -> Tensor:
    """A file as a tensor that is read as it is used."""
    expected = numbers * dtype.itemsize
    if not path.is_file() or path.stat().st_size != expected:
        raise ValueError(f"{path} should have {expected:,} bytes; delete the folder and fill it again")
    return torch.from_file(str(path), shared=False, size=numbers, dtype=dtype)
