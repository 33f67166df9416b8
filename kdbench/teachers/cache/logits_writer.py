"""Filling a cache with logits for views of images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.core.types import Batch
from kdbench.data.images.image_data import ImageData
from kdbench.teachers.cache.logits import LOGITS, STORAGES, Cache, place, sealed
from kdbench.teachers.cache.writer import CacheWriter


@dataclass(frozen=True)
class ViewFilling(CacheWriter):
    """Logits for views of images.

    keys: the views, int64, ascending; None for all that the training set has.
    """

    data: ImageData
    keys: Tensor | None = None

    unit, at_once = "views", 500

    @property
    def units(self) -> int:
        """How many views."""
        return self.data.num_views if self.keys is None else len(self.keys)

    @property
    def widths(self) -> dict[str, int]:
        """The logits."""
        return {LOGITS: self.data.num_classes * STORAGES[self.storage].itemsize}

    @property
    def keys_bytes(self) -> bytes | None:
        """The keys, where they are not all there are."""
        return None if self.keys is None else self.keys.numpy().tobytes()

    @property
    def bytes(self) -> int:
        """With the keys."""
        return super().bytes + (0 if self.keys is None else 8 * self.rows)

    @property
    def folder(self) -> Path:
        """Told apart by its views and its storage."""
        views = "all" if self.keys is None else hashlib.sha256(self.keys.numpy()).hexdigest()[:8]
        return place(self.teacher, self.data) / f"{views}-{self.storage}"

    @property
    def about(self) -> dict[str, Any]:
        """Whether it has all views."""
        return {"complete": self.keys is None}

    @property
    def words(self) -> str:
        """How many of all views."""
        return f"{self.teacher.name} on {self.data.name}, {self.rows:,} of {self.data.num_views:,} views"

    def found(self) -> Cache | None:
        """Whichever cache has these views in this storage."""
        keys = torch.arange(self.rows) if self.keys is None else self.keys
        there = (cache for cache in sealed(self.teacher, self.data) if cache.storage == self.storage)
        return next((cache for cache in there if cache.covers(keys)), None)

    def opened(self) -> Cache:
        """The cache in its folder."""
        return Cache(self.folder)

    def answers(self, start: int, stop: int) -> dict[str, Tensor]:
        """The logits of these views [n, C]."""
        keys = torch.arange(start, stop) if self.keys is None else self.keys[start:stop]
        batch = Batch(self.data.view_inputs(keys.to(self.data.device)), keys, keys)
        return {LOGITS: self.stored(self.teacher(batch).logits)}
