"""A language model that is known by its likeliest words: asked live, or once for all runs and read from a cache."""

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
from kdbench.teachers.cache.logits import CARD, STORAGES, Sealed, mapped, place, subject
from kdbench.teachers.cache.writer import CacheWriter
from kdbench.teachers.live import LiveTeacher

INDICES, LOG_PROBS, TAIL = "indices.bin", "log_probs.bin", "tail.bin"


class LikeliestCache(Sealed):
    """For each token of the training texts, text by text, the likeliest words and the mass of all others.

    Raises ValueError where the folder holds no sealed cache, or files of another size than its card says.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        k, dtype = self.card["top_k"], STORAGES[self.storage]
        self._known = (
            mapped(folder / INDICES, torch.int32, self.rows * k).view(self.rows, k),
            mapped(folder / LOG_PROBS, dtype, self.rows * k).view(self.rows, k),
            mapped(folder / TAIL, torch.float32, self.rows),
        )

    def to(self, device: torch.device) -> Self:
        """Keep the answers where they are asked for; on the CPU they stay in their files."""
        indices, log_probs, tail = self._known
        if device != tail.device:
            self._known = indices.to(device), log_probs.to(device), tail.to(device)
        return self

    def rows_of(self, rows: Tensor) -> TopKLogits:
        """What is known of these rows [N]."""
        indices, log_probs, tail = (known.index_select(0, rows) for known in self._known)
        return TopKLogits(indices.long(), log_probs.float(), tail, self.card["subject"]["classes"])


class TopKTeacher:
    """A teacher's answers to batches of texts by its k likeliest words; called as the live teacher is.

    cache: where the training texts' are; None: the live teacher is asked. ValueError where there are fewer words.
    """

    def __init__(
        self, live: LiveTeacher, k: int, data: TextData, cache: LikeliestCache | None = None
    ) -> None:
        check_words(k, data)
        self.cache, self._live, self._k, self._offsets = cache, live, k, _offsets(data)

    @property
    def storage(self) -> str:
        """Of the cache."""
        assert self.cache is not None
        return self.cache.storage

    def __call__(self, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        """Of the batch's rows; there are no features."""
        assert not features
        if self.cache is None:
            return Outputs(top_k_answers(self._live, batch, self._k))
        self._offsets = self._offsets.to(batch.index.device)
        return Outputs(self.cache.rows_of(_places(batch.index, self._offsets)))


def check_words(k: int, data: TextData) -> None:
    """ValueError where the vocabulary has fewer words."""
    if k > data.num_classes:
        raise ValueError(f"teacher.top_k={k}: {data.name} has {data.num_classes} words")


def top_k_answers(teacher: LiveTeacher, batch: Batch, k: int) -> TopKLogits:
    """The live teacher's k likeliest words of each row, a few rows at a time."""
    answer = teacher(batch)
    rows = chunk_rows(answer) or len(batch.target)
    chunks = answer.lazy_logits.chunks(rows)
    return concatenate_top_k([TopKLogits.from_dense(logits.dense().float(), k) for _, logits in chunks])


@dataclass(frozen=True)
class LikeliestFilling(CacheWriter):
    """The answers to all training texts by the top_k likeliest words. Indices take 4 bytes, log-probabilities those of
    the storage, the mass of all others 4."""

    data: TextData
    top_k: int = field(kw_only=True)

    unit, at_once = "texts", 32

    @cached_property
    def offsets(self) -> Tensor:
        """The row at which each text begins, int64 [texts + 1]."""
        return _offsets(self.data).cpu()

    @property
    def units(self) -> int:
        """How many texts."""
        return self.data.train_size

    def row_of(self, unit: int) -> int:
        """The token at which a text begins."""
        return int(self.offsets[unit])

    @property
    def widths(self) -> dict[str, int]:
        """Indices, log-probabilities, the others' mass."""
        return {INDICES: 4 * self.top_k, LOG_PROBS: self.top_k * STORAGES[self.storage].itemsize, TAIL: 4}

    @property
    def folder(self) -> Path:
        """Told apart by k and the storage."""
        return place(self.teacher, self.data) / f"top{self.top_k}-{self.storage}"

    @property
    def about(self) -> dict[str, Any]:
        """How many words are known."""
        return {"top_k": self.top_k}

    @property
    def words(self) -> str:
        """How many words of how many tokens."""
        name = f"{self.teacher.name} on {self.data.name}"
        return f"{name}, the {self.top_k} likeliest words of {self.rows:,} tokens in {self.units:,} texts"

    def found(self) -> LikeliestCache | None:
        """The cache with as many words in this storage."""
        return find(self.teacher, self.data, self.top_k, self.storage)

    def opened(self) -> LikeliestCache:
        """The cache in its folder."""
        return LikeliestCache(self.folder)

    def answers(self, start: int, stop: int) -> dict[str, Tensor]:
        """Of the texts [start, stop)."""
        known = top_k_answers(self.teacher, self.data.eval_batch("train", start, stop), self.top_k)
        return {
            INDICES: known.indices.cpu().to(torch.int32),
            LOG_PROBS: self.stored(known.log_probs),
            TAIL: known.tail.cpu(),
        }


def find(teacher: LiveTeacher, data: TextData, k: int, storage: str = "*") -> LikeliestCache | None:
    """A sealed cache of this teacher's k likeliest words of the training texts, or None; the finer storage first."""
    for card in sorted(place(teacher, data).glob(f"top{k}-{storage}/{CARD}"), reverse=True):
        try:
            cache = LikeliestCache(card.parent)
        except ValueError:
            continue
        if cache.card["subject"] == subject(teacher, data):
            return cache
    return None


def _offsets(data: TextData) -> Tensor:
    """Where the rows of each training text begin, int64 [texts + 1]."""
    labels = next(iter(data.token_views["train"].values())).labels
    valid = torch.cat([labels.values.new_zeros(1), (labels.values != IGNORED).cumsum(0)])
    return valid[labels.offsets]


def _places(index: Tensor, offsets: Tensor) -> Tensor:
    """The row in the files of each row of a batch: index int64 [N], the text of each, text by text."""
    place = torch.arange(len(index), device=index.device)
    begins = torch.ones_like(index, dtype=torch.bool)
    begins[1:] = index[1:] != index[:-1]
    first = torch.where(begins, place, 0).cummax(dim=0).values
    return offsets[index] + place - first
