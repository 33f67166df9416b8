"""A stopwatch that knows whose time it is: CPU time of this process (all its threads) and wall time, by part."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

PARTS = ("data", "teacher", "student", "loss", "backward", "optimiser", "rest")
"""Of a step; student is its forward pass, loss has the metrics of the step in it."""

Seconds = dict[str, float]


@dataclass(frozen=True, slots=True)
class Turn:
    """Consecutive optimiser steps of one side: seconds by part, of CPU time and of wall time."""

    steps: int
    cpu: Seconds
    wall: Seconds

    @property
    def cpu_ms(self) -> float:
        """Of a step, on average."""
        return 1e3 * sum(self.cpu.values()) / self.steps

    @property
    def wall_ms(self) -> float:
        """Of a step, on average."""
        return 1e3 * sum(self.wall.values()) / self.steps


class Stopwatch:
    """Charges what has passed since the last mark to the part that is named."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin a turn."""
        self._cpu, self._wall = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
        self._last = time.process_time(), time.perf_counter()

    def mark(self, part: str) -> None:
        """What was done since the last mark was `part`."""
        now = time.process_time(), time.perf_counter()
        self._cpu[part] += now[0] - self._last[0]
        self._wall[part] += now[1] - self._last[1]
        self._last = now

    def stop(self, steps: int) -> Turn:
        """End a turn of so many steps; what no part had is the rest."""
        self.mark("rest")
        turn = Turn(steps, self._cpu, self._wall)
        self.start()  # marks between two turns belong to none
        return turn


def part_ms(turns: Sequence[Turn], clock: str = "cpu") -> dict[str, float]:
    """The median of each part, in milliseconds of a step; clock: `cpu` or `wall`."""
    return {
        part: statistics.median(1e3 * getattr(turn, clock)[part] / turn.steps for turn in turns)
        for part in PARTS
    }


def shares(parts: dict[str, float]) -> dict[str, float]:
    """Per cent of a step by part."""
    total = sum(parts.values())
    return {part: 100 * value / total for part, value in parts.items()}
