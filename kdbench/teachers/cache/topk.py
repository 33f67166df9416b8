"""Top-k distributions of a language model for each token, computed live or read from a cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from kdbench.core.logits import TopKLogits, concatenate_top_k
from kdbench.core.types import IGNORED, Batch, Outputs
from kdbench.data.text.text_data import TextData
from kdbench.losses.chunked import chunk_rows
from kdbench.teachers.cache.logits import CARD, STORAGES, SealedCache, cache_identity, caches_folder, map_file
from kdbench.teachers.cache.writer import CacheWriter
from kdbench.teachers.live import LiveTeacher

INDICES, LOG_PROBS, TAIL = "indices.bin", "log_probs.bin", "tail.bin"


class TopKCache(SealedCache):
    """The top-k tokens at each position of the training texts, and the mass of all others.

    Raises:
        ValueError: The folder holds no sealed cache, or a file has the wrong size.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        k, dtype = self.card["top_k"], STORAGES[self.storage]
        self._tensors = (
            map_file(folder / INDICES, torch.int32, self.rows * k).view(self.rows, k),
            map_file(folder / LOG_PROBS, dtype, self.rows * k).view(self.rows, k),
            map_file(folder / TAIL, torch.float32, self.rows),
        )

    def to(self, device: torch.device) -> Self:
        """Move the answers to a device; on the CPU they stay in their files."""
        indices, log_probs, tail = self._tensors
        if device != tail.device:
            self._tensors = indices.to(device), log_probs.to(device), tail.to(device)
        return self

    def rows_of(self, rows: Tensor) -> TopKLogits:
        """Return the distributions of rows, int64 [N]."""
        indices, log_probs, tail = (tensor.index_select(0, rows) for tensor in self._tensors)
        return TopKLogits(indices.long(), log_probs.float(), tail, self.card["subject"]["classes"])


class TopKTeacher:
    """A teacher of which only the k most likely tokens are used; called like the live teacher.

    Args:
        live: The live teacher.
        k: Number of tokens.
        data: The texts, set up.
        cache: The stored answers to the training texts; None computes them live.

    Raises:
        ValueError: The vocabulary has fewer than k tokens.
    """

    def __init__(self, live: LiveTeacher, k: int, data: TextData, cache: TopKCache | None = None) -> None:
        check_top_k(k, data)
        self.cache, self._live, self._k, self._offsets = cache, live, k, _offsets(data)

    @property
    def storage(self) -> str:
        """Number format of the cache."""
        assert self.cache is not None
        return self.cache.storage

    def __call__(self, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        """Return the distributions of the rows of a batch, without features."""
        assert not features
        if self.cache is None:
            return Outputs(top_k_answers(self._live, batch, self._k))
        self._offsets = self._offsets.to(batch.index.device)
        return Outputs(self.cache.rows_of(_rows(batch.index, self._offsets)))


def check_top_k(k: int, data: TextData) -> None:
    """Check that the vocabulary has at least k tokens.

    Raises:
        ValueError: It has fewer.
    """
    if k > data.num_classes:
        raise ValueError(f"teacher.top_k={k}: {data.name} has {data.num_classes} tokens")


def top_k_answers(teacher: LiveTeacher, batch: Batch, k: int) -> TopKLogits:
    """Return the live teacher's top-k distributions of all rows of a batch, computed in chunks."""
    answer = teacher(batch)
    rows = chunk_rows(answer) or len(batch.target)
    chunks = answer.lazy_logits.chunks(rows)
    return concatenate_top_k([TopKLogits.from_dense(logits.dense().float(), k) for _, logits in chunks])


@dataclass(frozen=True)
class TopKCacheWriter(CacheWriter):
    """Writes the top-k distributions of all training texts.

    An index takes 4 bytes, a log-probability those of the storage, and the mass of all other tokens 4.

    Attributes:
        data: The texts.
        top_k: Number of tokens.
    """

    data: TextData
    top_k: int = field(kw_only=True)

    unit, batch_units = "texts", 32

    @cached_property
    def offsets(self) -> Tensor:
        """The first row of each text, int64 [texts + 1]."""
        return _offsets(self.data).cpu()

    @property
    def units(self) -> int:
        """The number of texts."""
        return self.data.train_size

    def row_of(self, unit: int) -> int:
        """Return the first row of a text."""
        return int(self.offsets[unit])

    @property
    def widths(self) -> dict[str, int]:
        """Bytes per row of indices, log-probabilities and the mass of all others."""
        return {INDICES: 4 * self.top_k, LOG_PROBS: self.top_k * STORAGES[self.storage].itemsize, TAIL: 4}

    @property
    def folder(self) -> Path:
        """The folder, named after k and the storage."""
        return caches_folder(self.teacher, self.data) / f"top{self.top_k}-{self.storage}"

    @property
    def card_entries(self) -> dict[str, Any]:
        """The number of tokens."""
        return {"top_k": self.top_k}

    @property
    def description(self) -> str:
        """Teacher, data, k and the number of rows."""
        name = f"{self.teacher.name} on {self.data.name}"
        return f"{name}, the top {self.top_k} tokens at {self.rows:,} positions in {self.units:,} texts"

    def find_existing(self) -> TopKCache | None:
        """Return a cache with this k and storage, or None."""
        return find(self.teacher, self.data, self.top_k, self.storage)

    def open(self) -> TopKCache:
        """Open the cache in the folder."""
        return TopKCache(self.folder)

    def compute(self, start: int, stop: int) -> dict[str, Tensor]:
        """Return the distributions of the texts [start, stop)."""
        top_k = top_k_answers(self.teacher, self.data.eval_batch("train", start, stop), self.top_k)
        return {
            INDICES: top_k.indices.cpu().to(torch.int32),
            LOG_PROBS: self.to_storage(top_k.log_probs),
            TAIL: top_k.tail.cpu(),
        }


def find(teacher: LiveTeacher, data: TextData, k: int, storage: str = "*") -> TopKCache | None:
    """Return a sealed cache of a teacher's top-k distributions, or None; the more precise storage first."""
    for card in sorted(caches_folder(teacher, data).glob(f"top{k}-{storage}/{CARD}"), reverse=True):
        try:
            cache = TopKCache(card.parent)
        except ValueError:
            continue
        if cache.card["subject"] == cache_identity(teacher, data):
            return cache
    return None


def _offsets(data: TextData) -> Tensor:
    """Return the first row of each training text, int64 [texts + 1]."""
    labels = next(iter(data.token_views["train"].values())).labels
    valid = torch.cat([labels.values.new_zeros(1), (labels.values != IGNORED).cumsum(0)])
    return valid[labels.offsets]


def _rows(index: Tensor, offsets: Tensor) -> Tensor:
    """Return the row in the files of each row of a batch.

    Args:
        index: The text of each row, int64 [N]; rows of a text are adjacent and in order.
        offsets: The first row of each text.
    """
    position = torch.arange(len(index), device=index.device)
    starts = torch.ones_like(index, dtype=torch.bool)
    starts[1:] = index[1:] != index[:-1]
    first = torch.where(starts, position, 0).cummax(dim=0).values
    return offsets[index] + position - first
