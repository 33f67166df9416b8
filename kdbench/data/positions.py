"""Positions in an epoch or a split, which Lightning iterates over instead of data."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive optimiser steps [start, stop) of an epoch (from 1), which one `training_step` processes."""

    epoch: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class EvalChunk:
    """Rows [start, stop) of a split, which one `validation_step` processes."""

    split: str
    start: int
    stop: int


class ChunkLoader:
    """A loader without workers, sampler and collation.

    It is no DataLoader, because Lightning warns about one without workers and adds a sampler under DDP. It has no
    length, because Lightning would keep that of the first epoch, which a resumed run starts in the middle.

    Args:
        chunks: Called at the start of each iteration; returns the chunks to yield.
    """

    def __init__(self, chunks: Callable[[], Iterable[Any]]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[Any]:
        return iter(self._chunks())
