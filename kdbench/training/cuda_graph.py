"""Work on a GPU that is recorded once and replayed: no Python and one launch for a whole step (CUDA graphs)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch

from kdbench.core.objective import Objective
from kdbench.losses.composite import Loss

T = TypeVar("T")

WARM_UP = 3
"""Calls that run as they are before one is recorded: they choose kernels, and make what is made once (momentum)."""


class Graph(Protocol):
    """Records what is done with tensors, and does it again with the same tensors, whatever is in them by then."""

    def warm_up(self, work: Callable[[], T]) -> T:
        """Do the work where it will be recorded."""

    def record(self, work: Callable[[], T]) -> T:
        """Take down what the work would do; its result holds nothing before the first replay, and the newest after."""

    def replay(self) -> None:
        """Do what was recorded."""


class CudaGraph:
    """A CUDA graph with a stream of its own to be recorded on."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm_up(self, work: Callable[[], T]) -> T:
        """On the side stream, between what came before on the current one and what comes after."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], T]) -> T:
        """Other threads, such as a logger's, may go on using the device meanwhile."""
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            return work()

    def replay(self) -> None:
        """In the current stream."""
        self._graph.replay()


class Recorded(Generic[T]):
    """Work that is the same at every call with the same key: run as it is a few times, recorded, then replayed.

    Whatever differs from call to call must be read from tensors that stay where they are. A result is
    overwritten by the next call.
    """

    def __init__(self, graph: Callable[[], Graph]) -> None:
        self._make = graph
        self._key: Hashable = None
        self._result: T | None = None

    def __call__(self, key: Hashable, work: Callable[[], T]) -> T:
        """The work's result; key: anything but None, another where the work is another."""
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
    """Why the steps of a loss cannot be recorded, or None."""
    if loss.views:
        return f"{', '.join(loss.views)} views are drawn with the CPU's help"
    if loss.dot is not None:
        return f"loss.dot={loss.dot} is not recorded"
    for name, term in loss.terms.items():
        if "step" in term.needs:
            return f"{name} draws by the number of the step, which a recorded step does not learn"
        if type(term).extra_forward is not Objective.extra_forward:
            return f"{name} asks about images beside the batch"
    return None


def of_epoch(loss: Loss, epoch: int) -> Hashable:
    """What of a loss is the same in all steps of an epoch and may be another in the next: ramps, and what terms make
    of the epoch's number."""
    looks = any("epoch" in term.needs for term in loss.terms.values())
    return tuple(loss.weight(name, epoch) for name in loss.ramps), epoch if looks else None
