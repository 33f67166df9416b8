"""Whether all ranks of a run are still there: each gives signs of life, and looks for those of the others."""

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
"""Seconds without a sign of life after which a rank is taken for lost."""
GRACE = 10.0
"""Seconds that a process has to end by itself once a rank is lost; it may wait for that rank for ever."""


def lost(children: Sequence[subprocess.Popen[bytes]]) -> str | None:
    """Which of the ranks from 1, started here, has ended without success, and how."""
    for number, child in enumerate(children, 1):
        if code := child.poll():
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            return f"rank {number} {how}"
    return None


class Watch(threading.Thread):
    """Every rank gives signs of life and looks for those of the others, in the store that torch's ranks meet in.

    children: the ranks from 1 that this process has started.
    """

    def __init__(self, children: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        super().__init__(daemon=True, name="watch")
        self.children = children
        self.on_loss: Callable[[RunError], None] = lambda _: None
        """What is to be written where a rank is lost and the main thread never comes back."""
        self.reason: str | None = None
        self._found, self._stopped = threading.Event(), threading.Event()
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        meeting = dist.TCPStore(host, port, timeout=timedelta(seconds=SILENCE))  # type: ignore[attr-defined]
        self._store = dist.PrefixStore("kdbench", meeting)  # type: ignore[attr-defined]
        self._heard: dict[int, tuple[bytes, float]] = {}

    def run(self) -> None:
        """Look once a second; where a rank is lost, let the process end, if need be by force."""
        while self.reason is None and not self._stopped.wait(1):
            try:
                self.reason = self._look()
            except RuntimeError:  # of the store, which rank 0 keeps
                self.reason = "rank 0 has ended without a word"
        if self._stopped.is_set():
            return
        self._found.set()
        if not self._stopped.wait(GRACE):
            self.on_loss(RunError(str(self.reason)))
            self._say(f"kdbench: {self.reason}")
            self.end_children()
            os._exit(1)

    def stop(self) -> None:
        """Look no more: the ranks part."""
        self._stopped.set()
        self.join()

    def tell(self, what: str) -> bool:
        """Tell the others that this rank fails; whether it is the first to do so."""
        mine = f"rank {rank()} failed: {what}"
        try:
            return self._store.compare_set("failure", "", mine).decode() == mine
        except RuntimeError:
            return False

    def others(self, error: BaseException) -> str | None:
        """How another rank failed, where `error` may come from that; waits until it is known."""
        if not isinstance(error, RuntimeError):
            return None
        of_the_group = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
        self._found.wait(SILENCE + 5 if of_the_group else 2)
        return self.reason

    def end_children(self) -> None:
        """Leave no process behind."""
        for child in self.children:
            child.kill()
            child.wait()

    def _look(self) -> str | None:
        self._store.set(str(rank()), str(time.monotonic()))
        if self._store.check(["failure"]):
            return self._store.get("failure").decode()
        if how := lost(self.children):
            return how
        return next(filter(None, map(self._silence, range(1, world_size()))), None) if rank() == 0 else None

    def _silence(self, other: int) -> str | None:
        beat = self._store.get(str(other)) if self._store.check([str(other)]) else b""
        now = time.monotonic()
        last, since = self._heard.get(other, (b"", now))
        self._heard[other] = beat, (since := since if beat == last else now)
        return f"rank {other} gave no sign of life for {SILENCE:g} s" if now - since > SILENCE else None

    def _say(self, text: str) -> None:
        if rank() == 0 or self.reason == "rank 0 has ended without a word":
            print(text, file=sys.stderr, flush=True)
