"""Time that each student of a cohort takes for itself."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Adds up times by owner.

    On a GPU it measures events in the stream, because calls return before their work is done. Such times can be read
    once something has waited for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._laps: dict[Any, list[tuple[Any, Any]]] = defaultdict(list)

    @contextmanager
    def measure(self, owner: Any) -> Iterator[None]:
        """Add the time spent within the context to an owner."""
        started = self._now()
        yield
        self._laps[owner].append((started, self._now()))

    def seconds(self, owner: Any) -> float:
        """Return the time of an owner so far."""
        laps = self._laps[owner]
        if self._on_gpu:
            return sum(float(start.elapsed_time(stop)) for start, stop in laps) / 1000
        return float(sum(stop - start for start, stop in laps))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
