"""Whose time it is: what each student of a cohort takes for itself."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Laps by owner. On a GPU they are measured in its stream, for the calls return before the work is done;
    they are read after something has waited for it."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._laps: dict[Any, list[tuple[Any, Any]]] = defaultdict(list)

    @contextmanager
    def lap(self, owner: Any) -> Iterator[None]:
        """Within: the owner's time."""
        started = self._now()
        yield
        self._laps[owner].append((started, self._now()))

    def seconds(self, owner: Any) -> float:
        """What the owner took so far."""
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
