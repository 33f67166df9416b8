"""The writer of caches of logits for views of images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.core.types import Batch
from kdbench.data.images.image_data import ImageData
from kdbench.teachers.cache.logits import LOGITS, STORAGES, LogitsCache, caches_folder, sealed
from kdbench.teachers.cache.writer import CacheWriter


@dataclass(frozen=True)
class LogitsCacheWriter(CacheWriter):
    """Writes logits for views of images.

    Attributes:
        data: The images.
        keys: Keys of the views, int64, ascending; None for all views of the training set.
    """

    data: ImageData
    keys: Tensor | None = None

    unit, batch_units = "views", 500

    @property
    def units(self) -> int:
        """The number of views."""
        return self.data.num_views if self.keys is None else len(self.keys)

    @property
    def widths(self) -> dict[str, int]:
        """Bytes per view of the file of logits."""
        return {LOGITS: self.data.num_classes * STORAGES[self.storage].itemsize}

    @property
    def keys_bytes(self) -> bytes | None:
        """The keys, or None for all views."""
        return None if self.keys is None else self.keys.numpy().tobytes()

    @property
    def bytes(self) -> int:
        """Size on disk, including the keys."""
        return super().bytes + (0 if self.keys is None else 8 * self.rows)

    @property
    def folder(self) -> Path:
        """The folder, named after the views and the storage."""
        views = "all" if self.keys is None else hashlib.sha256(self.keys.numpy()).hexdigest()[:8]
        return caches_folder(self.teacher, self.data) / f"{views}-{self.storage}"

    @property
    def card_entries(self) -> dict[str, Any]:
        """Whether the cache has all views."""
        return {"complete": self.keys is None}

    @property
    def description(self) -> str:
        """Teacher, data and number of views."""
        return f"{self.teacher.name} on {self.data.name}, {self.rows:,} of {self.data.num_views:,} views"

    def find_existing(self) -> LogitsCache | None:
        """Return a cache that has these views in this storage, or None."""
        keys = torch.arange(self.rows) if self.keys is None else self.keys
        caches = (cache for cache in sealed(self.teacher, self.data) if cache.storage == self.storage)
        return next((cache for cache in caches if cache.covers(keys)), None)

    def open(self) -> LogitsCache:
        """Open the cache in the folder."""
        return LogitsCache(self.folder)

    def compute(self, start: int, stop: int) -> dict[str, Tensor]:
        """Return the logits [n, C] of the views [start, stop)."""
        keys = torch.arange(start, stop) if self.keys is None else self.keys[start:stop]
        batch = Batch(self.data.view_inputs(keys.to(self.data.device)), keys, keys)
        return {LOGITS: self.to_storage(self.teacher(batch).logits)}
