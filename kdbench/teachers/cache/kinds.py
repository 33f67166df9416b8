"""The kinds of answer caches, by the name that a task gives (`Task.answer_cache`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdbench.losses.composite import Loss
from kdbench.teachers.cache import topk
from kdbench.teachers.cache.logits import CachedTeacher, LogitsCache, SealedCache, find, why_not_cached
from kdbench.teachers.cache.logits_writer import LogitsCacheWriter
from kdbench.teachers.cache.topk import TopKCache, TopKCacheWriter, TopKTeacher, check_top_k
from kdbench.teachers.cache.writer import CacheWriter
from kdbench.teachers.live import LiveTeacher

Epochs = Mapping[int, int]
"""The number of epochs that the runs of each seed need."""


class AnswerCache(ABC):
    """One kind of stored answers: which losses it serves, how it is found and how it is filled."""

    @abstractmethod
    def obstacle(self, loss: Loss, top_k: int | None) -> str | None:
        """Return the reason why stored answers cannot serve a loss that needs a teacher, or None.

        Args:
            loss: The loss of a run.
            top_k: The setting `teacher.top_k` of the run.
        """

    @abstractmethod
    def find(
        self, teacher: LiveTeacher, data: Any, seed: int, epochs: int, storage: str
    ) -> CachedTeacher | TopKTeacher | None:
        """Return the teacher that reads its answers for a run from a sealed cache, or None if there is none.

        Args:
            teacher: The live teacher.
            data: The data of the run, set up.
            seed: The seed of the run.
            epochs: The number of epochs of the run.
            storage: The number format of the cache; `*` for any.
        """

    def without_cache(self, teacher: LiveTeacher, data: Any) -> TopKTeacher | None:
        """Return a teacher that computes what the cache stores, or None if the live teacher does so anyway.

        A run must see the same form of answers with and without a cache.
        """
        return None

    @abstractmethod
    def writer(
        self, teacher: LiveTeacher, data: Any, storage: str, epochs: Epochs, all_views: bool
    ) -> CacheWriter:
        """Return the writer of a cache that serves the runs of these seeds and epochs.

        Args:
            teacher: The live teacher.
            data: The data of the runs, set up.
            storage: The number format of the cache.
            epochs: The epochs by seed.
            all_views: Whether to store all possible views instead of those that the runs draw.

        Raises:
            ValueError: The storage or `all_views` is not possible.
        """

    @abstractmethod
    def open(self, folder: Path) -> SealedCache:
        """Open a sealed cache of this kind; ValueError if the folder holds none, or a file has the wrong size."""


class LogitCaches(AnswerCache):
    """Logits for views of images, one row for each view."""

    def obstacle(self, loss: Loss, top_k: int | None) -> str | None:
        """Features and further views are not stored."""
        return why_not_cached(loss)

    def find(
        self, teacher: LiveTeacher, data: Any, seed: int, epochs: int, storage: str
    ) -> CachedTeacher | None:
        """Return a cache that has every view that the run draws."""
        cache = find(teacher, data, seed, epochs, storage)
        return None if cache is None else CachedTeacher(teacher, cache, data)

    def writer(
        self, teacher: LiveTeacher, data: Any, storage: str, epochs: Epochs, all_views: bool
    ) -> LogitsCacheWriter:
        """Return the writer of the views that the runs draw, each once."""
        if all_views:
            return LogitsCacheWriter(teacher, data, storage)
        drawn = torch.zeros(data.num_views, dtype=torch.bool)
        for seed, most in epochs.items():
            drawn[data.views_of_run(seed, most)] = True
        return LogitsCacheWriter(teacher, data, storage, drawn.nonzero().flatten())

    def open(self, folder: Path) -> LogitsCache:
        """Open the cache of a folder."""
        return LogitsCache(folder)


class TopKCaches(AnswerCache):
    """The top-k distributions of the tokens of all training texts."""

    def obstacle(self, loss: Loss, top_k: int | None) -> str | None:
        """Generated responses differ from run to run, and the whole vocabulary is too large to store."""
        if loss.policy is not None:
            return "what is written anew for each step has no stored answers"
        if not top_k:
            return "of a language model its likeliest words are stored: teacher.top_k says how many"
        return None

    def find(
        self, teacher: LiveTeacher, data: Any, seed: int, epochs: int, storage: str
    ) -> TopKTeacher | None:
        """Return a cache with the k of the teacher."""
        cache = topk.find(teacher, data, teacher.top_k or 0, storage)
        return None if cache is None else TopKTeacher(teacher, cache.card["top_k"], data, cache)

    def without_cache(self, teacher: LiveTeacher, data: Any) -> TopKTeacher | None:
        """Return a live teacher that is truncated to its `top_k`."""
        return TopKTeacher(teacher, teacher.top_k, data) if teacher.top_k else None

    def writer(
        self, teacher: LiveTeacher, data: Any, storage: str, epochs: Epochs, all_views: bool
    ) -> TopKCacheWriter:
        """Return the writer of all training texts, independent of the runs."""
        if all_views:
            raise ValueError("--all is for views of images: the training texts are all stored")
        assert teacher.top_k is not None
        check_top_k(teacher.top_k, data)
        return TopKCacheWriter(teacher, data, storage, top_k=teacher.top_k)

    def open(self, folder: Path) -> TopKCache:
        """Open the cache of a folder."""
        return TopKCache(folder)


CACHES: Mapping[str, AnswerCache] = {"logits": LogitCaches(), "top_k": TopKCaches()}
"""All kinds by name."""


def open_cache(folder: Path) -> SealedCache:
    """Open a sealed cache of any kind; ValueError if the folder holds none, or a file has the wrong size."""
    return CACHES["top_k" if "top_k" in SealedCache(folder).card else "logits"].open(folder)
