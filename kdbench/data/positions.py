"""What Lightning iterates over: pieces of work named by their position, not the data itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive optimiser steps [start, stop) of one epoch (from 1): what one `training_step` does."""

    epoch: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class EvalChunk:
    """Rows [start, stop) of one evaluation split: what one `validation_step` does."""

    split: str
    start: int
    stop: int


class ChunkLoader:
    """A loader without worker, sampler or collation; each iteration asks anew what there is to yield.

    Not a DataLoader, for Lightning warns of one without workers and puts a sampler into it under DDP. It has
    no length either, for Lightning would hold the first epoch's, which a resumed run starts in the middle of.
    """

    def __init__(self, chunks: Callable[[], Iterable[Any]]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[Any]:
        return iter(self._chunks())
