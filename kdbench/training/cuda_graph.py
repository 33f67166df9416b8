"""Record work on a GPU once and replay it: no Python and one launch per step (CUDA graphs)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch

from kdbench.core.objective import Objective
from kdbench.losses.composite import Loss

T = TypeVar("T")

WARM_UP = 3
"""Calls before one is recorded: they choose kernels and allocate what persists (momentum)."""


class Graph(Protocol):
    """Records work on tensors and repeats it on the same tensors with their current contents."""

    def warm_up(self, work: Callable[[], T]) -> T:
        """Run work without recording, in the stream of the recording."""

    def record(self, work: Callable[[], T]) -> T:
        """Record work; its result is undefined before the first replay and overwritten by each one."""

    def replay(self) -> None:
        """Repeat the recorded work."""


class CudaGraph:
    """A CUDA graph that is recorded on its own stream."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm_up(self, work: Callable[[], T]) -> T:
        """Run work on the recording stream, ordered with the current stream."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], T]) -> T:
        """Record work; other threads, such as a logger's, may use the device meanwhile."""
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            return work()

    def replay(self) -> None:
        """Replay in the current stream."""
        self._graph.replay()


class Recorded(Generic[T]):
    """Runs work a few times, then records it and replays it as long as its key stays the same.

    Everything that differs between calls must be read from tensors at fixed addresses. A result is overwritten by the
    next call.

    Args:
        graph: Makes an empty graph.
    """

    def __init__(self, graph: Callable[[], Graph]) -> None:
        self._make = graph
        self._key: Hashable = None
        self._result: T | None = None

    def __call__(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return the result of the work.

        Args:
            key: Identifies the work; not None.
            work: The work.
        """
        if key != self._key:
            self._key, self._graph, self._calls, self._result = key, self._make(), 0, None
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._graph.warm_up(work)
        if self._result is None:
            self._result = self._graph.record(work)
        self._graph.replay()
        return self._result


def hindrance(loss: Loss) -> str | None:
    """Return the reason why the steps of a loss cannot be recorded, or None."""
    if loss.views:
        return f"{', '.join(loss.views)} views are drawn on the CPU"
    if loss.dot is not None:
        return f"loss.dot={loss.dot} is not recorded"
    for name, term in loss.terms.items():
        if "step" in term.needs:
            return f"{name} draws random numbers by the step, which a recorded step does not know"
        if type(term).extra_forward is not Objective.extra_forward:
            return f"{name} needs extra forward passes over images outside the batch"
    return None


def of_epoch(loss: Loss, epoch: int) -> Hashable:
    """Return a key of the parts of a loss that may change between epochs: ramps, and terms that read the epoch."""
    looks = any("epoch" in term.needs for term in loss.terms.values())
    return tuple(loss.weight(name, epoch) for name in loss.ramps), epoch if looks else None
