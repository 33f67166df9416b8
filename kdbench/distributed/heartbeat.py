"""Heartbeats between the ranks of a run, so that a lost rank ends all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch.distributed as dist

from kdbench.core.errors import RunError
from kdbench.distributed.collectives import rank, world_size

SILENCE = 20.0
"""Seconds without a heartbeat after which a rank counts as lost."""
GRACE = 10.0
"""Seconds that a process has to end by itself after a rank is lost; it may be blocked in a collective."""


NO_RANK_0 = "rank 0 ended without a message"


def failed_child(children: Sequence[subprocess.Popen[bytes]]) -> str | None:
    """Return which child process failed and how, or None. Child i is rank i + 1."""
    for number, child in enumerate(children, 1):
        if code := child.poll():
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            return f"rank {number} {how}"
    return None


class HeartbeatMonitor(threading.Thread):
    """A thread that sends this rank's heartbeat and checks those of the others, through torch's store.

    Args:
        children: The ranks that this process has started, from rank 1.

    Attributes:
        on_loss: Called before the process is ended by force because a rank was lost.
        reason: How another rank failed, once that is known.
    """

    def __init__(self, children: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        super().__init__(daemon=True, name="heartbeat")
        self.children = children
        self.on_loss: Callable[[RunError], None] = lambda _: None
        self.reason: str | None = None
        self._failure_seen, self._stopped = threading.Event(), threading.Event()
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, timeout=timedelta(seconds=SILENCE))  # type: ignore[attr-defined]
        self._store = dist.PrefixStore("kdbench", store)  # type: ignore[attr-defined]
        self._heard: dict[int, tuple[bytes, float]] = {}

    def run(self) -> None:
        """Check once a second. If a rank is lost, end this process, after a grace period by force."""
        while self.reason is None and not self._stopped.wait(1):
            try:
                self.reason = self._look()
            except RuntimeError:  # the store lives in rank 0
                self.reason = NO_RANK_0
        if self._stopped.is_set():
            return
        self._failure_seen.set()
        if not self._stopped.wait(GRACE):
            self.on_loss(RunError(str(self.reason)))
            self._say(f"kdbench: {self.reason}")
            self.end_children()
            os._exit(1)

    def stop(self) -> None:
        """Stop checking, because the run has ended."""
        self._stopped.set()
        self.join()

    def announce(self, failure: str) -> bool:
        """Tell the other ranks that this rank fails. Returns whether it is the first to do so."""
        mine = f"rank {rank()} failed: {failure}"
        try:
            return self._store.compare_set("failure", "", mine).decode() == mine
        except RuntimeError:
            return False

    def cause(self, error: BaseException) -> str | None:
        """Return how another rank failed if that may have caused `error`; waits until it is known."""
        if not isinstance(error, RuntimeError):
            return None
        of_the_group = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        self._failure_seen.wait(SILENCE + 5 if of_the_group else 2)
        return self.reason

    def end_children(self) -> None:
        """Kill the ranks that this process has started."""
        for child in self.children:
            child.kill()
            child.wait()

    def _look(self) -> str | None:
        self._store.set(str(rank()), str(time.monotonic()))
        if self._store.check(["failure"]):
            return self._store.get("failure").decode()
        if failure := failed_child(self.children):
            return failure
        return next(filter(None, map(self._silence, range(1, world_size()))), None) if rank() == 0 else None

    def _silence(self, other: int) -> str | None:
        beat = self._store.get(str(other)) if self._store.check([str(other)]) else b""
        now = time.monotonic()
        last, since = self._heard.get(other, (b"", now))
        self._heard[other] = beat, (since := since if beat == last else now)
        return f"rank {other} sent no heartbeat for {SILENCE:g} s" if now - since > SILENCE else None

    def _say(self, text: str) -> None:
        if rank() == 0 or self.reason == NO_RANK_0:
            print(text, file=sys.stderr, flush=True)
