"""A stopwatch that charges CPU time (of all threads) and wall time to the parts of a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

PARTS = ("data", "teacher", "student", "loss", "backward", "optimiser", "rest")
"""The parts of a step. `student` is its forward pass; `loss` includes the metrics of the step."""

Seconds = dict[str, float]


@dataclass(frozen=True, slots=True)
class Turn:
    """Consecutive optimiser steps of one side: seconds of CPU time and of wall time, by part."""

    steps: int
    cpu: Seconds
    wall: Seconds

    @property
    def cpu_ms(self) -> float:
        """Mean CPU time of a step in milliseconds."""
        return 1e3 * sum(self.cpu.values()) / self.steps

    @property
    def wall_ms(self) -> float:
        """Mean wall time of a step in milliseconds."""
        return 1e3 * sum(self.wall.values()) / self.steps


class Stopwatch:
    """Charges the time since the last mark to a part."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start a turn."""
        self._cpu, self._wall = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
        self._last = time.process_time(), time.perf_counter()

    def mark(self, part: str) -> None:
        """Charge the time since the last mark to `part`."""
        now = time.process_time(), time.perf_counter()
        self._cpu[part] += now[0] - self._last[0]
        self._wall[part] += now[1] - self._last[1]
        self._last = now

    def stop(self, steps: int) -> Turn:
        """End a turn; the remaining time is charged to `rest`."""
        self.mark("rest")
        turn = Turn(steps, self._cpu, self._wall)
        self.start()  # time between two turns belongs to none
        return turn


def part_ms(turns: Sequence[Turn], clock: str = "cpu") -> dict[str, float]:
    """Return the median of each part over turns, in milliseconds per step; clock is `cpu` or `wall`."""
    return {
        part: statistics.median(1e3 * getattr(turn, clock)[part] / turn.steps for turn in turns)
        for part in PARTS
    }


def shares(parts: dict[str, float]) -> dict[str, float]:
    """Return the per cent of a step that each part takes."""
    total = sum(parts.values())
    return {part: 100 * value / total for part, value in parts.items()}
