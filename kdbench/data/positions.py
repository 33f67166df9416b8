"""Positions in an epoch or a split, which Lightning iterates over instead of data."""

from dataclasses import dataclass


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
