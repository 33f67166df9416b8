"""Jobs side by side: dealt out, tried again where they fail, told to stop together."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kdbench.jobs.job import Ended, Job, Limits, reason_in
from kdbench.jobs.worker import FOLLOWS, RECEIPT
from kdbench.utils.hardware import cuda_devices, free_cores
from kdbench.utils.signals import handle_signals

JOURNAL = "jobs.jsonl"
"""Beside the logs: a line for every attempt that ended, with its reason."""

_GRACE = 60.0
"""Seconds that a job has for its checkpoint before it is killed."""


@dataclass
class _Running:
    job: Job
    attempt: int
    process: subprocess.Popen[bytes]
    began: float
    offset: int
    late: bool = False
    told_at: float | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def tell_to_stop(self) -> None:
        self.told_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """All of the job's processes, also those that it started."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)


class JobScheduler:
    """Runs jobs under some limits. `say` is told of each that has ended for good, `failed` of every attempt that did
    not succeed; `note` prints a line."""

    def __init__(
        self,
        limits: Limits,
        say: Callable[[Ended], None],
        note: Callable[[str], None] = print,
        failed: Callable[[Ended], None] = lambda _: None,
    ) -> None:
        self.limits, self._say, self._note, self._failed = limits, say, note, failed
        self.stopped_by: int | None = None
        """The signal that ended the work before its end."""
        self._told: int | None = None
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: dict[int, _Running] = {}
        self._claims: dict[Job, list[IO[str]]] = {}
        self._ended: list[Ended] = []
        self._next_look = 0.0
        self._said_waiting = False

    def run(self, jobs: Sequence[Job]) -> list[Ended]:
        """Run them, the first ones first. After SIGINT or SIGTERM those at work stop with a checkpoint, and no
        further one is started; a second signal kills them."""
        self._waiting, self._ended = deque((job, 1) for job in jobs), []
        with self._listening():
            while self._running or (self._waiting and self.stopped_by is None):
                self._tell_to_stop()
                for slot in list(self._running):
                    self._look_after(slot)
                if self.stopped_by is None and time.monotonic() >= self._next_look:
                    self._start_what_can()
                time.sleep(0.05)
        return self._ended

    # ---- signals

    @contextmanager
    def _listening(self) -> Iterator[None]:
        def ask(number: int) -> None:
            self.stopped_by = number
            self._told = None if self._told is None else self._told + 1

        try:
            with handle_signals(ask):
                yield
        finally:
            for running in self._running.values():  # an error of our own must not leave them behind
                running.kill()

    def _tell_to_stop(self) -> None:
        if self.stopped_by is None:
            return
        if self._told is None:
            self._told = 0
            words = "each with a checkpoint; a second signal kills them"
            self._note(f"{signal.Signals(self.stopped_by).name}: {len(self._running)} jobs stop, {words}")
            for running in self._running.values():
                running.tell_to_stop()
        elif self._told:
            for running in self._running.values():
                running.kill()

    # ---- one job

    def _start_what_can(self) -> None:
        """Start the first of the waiting ones that nobody else is at, in every free place."""
        for slot in set(range(self.limits.at_once)) - set(self._running):
            for _ in range(len(self._waiting)):
                job, attempt = self._waiting.popleft()
                if not self._claim(job):
                    self._waiting.append((job, attempt))
                elif job.needed():
                    self._running[slot] = self._start(job, attempt, slot)
                    break
                else:
                    self._end(Ended(job, "elsewhere", attempts=attempt - 1))
        if self._waiting and len(self._running) < self.limits.at_once:  # all of them are others' now
            self._next_look = time.monotonic() + 1.0
            if not self._running and not self._said_waiting:
                self._said_waiting = True
                names = ", ".join(job.title for job, _ in list(self._waiting)[:3])
                self._note(
                    f"waiting for other processes at work on {len(self._waiting)} of the jobs: {names}"
                )

    def _start(self, job: Job, attempt: int, slot: int) -> _Running:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, *job.command, *(job.again if attempt > 1 else ())]
        _receipt(job).unlink(missing_ok=True)
        with open(job.log, "ab") as log:
            log.write(f"== attempt {attempt}, {_now()}: {shlex.join(words)}\n".encode())
            log.flush()
            offset = log.tell()
            process = subprocess.Popen(
                words,
                env={**os.environ, **self._dealt(slot), FOLLOWS: "1", RECEIPT: str(_receipt(job))},
                stdin=subprocess.PIPE,  # which ends with us: `follow_launcher`
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we tell them
                pass_fds=[claim.fileno() for claim in self._claims.get(job, ())],
            )
        self._pin(process.pid, slot)
        return _Running(job, attempt, process, time.monotonic(), offset)

    def _dealt(self, slot: int) -> dict[str, str]:
        """What the environment says of a place's share of this machine."""
        threads, each, devices = str(self.limits.threads), self.limits.devices, cuda_devices()
        share = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
        if devices:
            own = dict.fromkeys(devices[(slot * each + number) % len(devices)] for number in range(each))
            share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return share

    def _pin(self, pid: int, slot: int) -> None:
        threads = self.limits.threads
        if self.limits.pin and self.limits.at_once * threads <= free_cores():
            cores = sorted(os.sched_getaffinity(0))[slot * threads : (slot + 1) * threads]
            with suppress(OSError):  # it may have ended
                os.sched_setaffinity(pid, cores)

    def _look_after(self, slot: int) -> None:
        running = self._running[slot]
        code = running.process.poll()
        if code is None:
            self._mind_the_time(running)
            return
        del self._running[slot]
        self._next_look = 0.0
        running.kill()  # what it may have left behind
        if running.process.stdin:
            running.process.stdin.close()
        self._conclude(running, code)

    def _mind_the_time(self, running: _Running) -> None:
        limit = self.limits.timeout
        if limit is not None and running.seconds > limit and running.told_at is None:
            running.late = True
            running.tell_to_stop()
        if running.told_at is not None and time.monotonic() - running.told_at > _GRACE:
            running.kill()

    def _conclude(self, running: _Running, code: int) -> None:
        job, attempt, usage = running.job, running.attempt, 2
        if code == 0:
            state, reason = "done", None
        elif self.stopped_by is not None:
            state, reason = "stopped", f"stopped by {signal.Signals(self.stopped_by).name}"
        else:
            state, reason = "failed", self._reason(running, code)
        ended = Ended(job, state, reason, running.seconds, attempt, _returned(job))
        self._write_down(ended, code)
        if state == "failed":
            self._failed(ended)
        if state == "failed" and attempt <= self.limits.retries and code != usage:
            self._note(f"{job.title}: {reason}; attempt {attempt + 1} follows (log: {job.log})")
            self._waiting.append((job, attempt + 1))
        else:
            self._end(ended)

    def _reason(self, running: _Running, code: int) -> str:
        if running.late:
            return f"not done after {self.limits.timeout:g} s (timeout)"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return reason_in(_text(running.job.log, running.offset)) or f"exit code {code}"

    def _end(self, ended: Ended) -> None:
        for claim in self._claims.pop(ended.job, ()):
            claim.close()
        self._ended.append(ended)
        self._say(ended)

    @staticmethod
    def _write_down(ended: Ended, code: int) -> None:
        job = ended.job
        line: dict[str, Any] = {"title": job.title, "attempt": ended.attempts, "state": ended.state}
        line |= {"code": code, "reason": ended.reason, "seconds": round(ended.seconds, 1)}
        line |= {"log": str(job.log), "ended": _now()}
        with open(job.log.parent / JOURNAL, "a") as journal:
            journal.write(json.dumps(line) + "\n")

    # ---- claims

    def _claim(self, job: Job) -> bool:
        """Hold the job's claims until it has ended for good: all of them, or none. Its process inherits them, so
        they outlast a kill of ours."""
        if job in self._claims:
            return True
        held: list[IO[str]] = []
        try:
            for path in job.claims:
                path.parent.mkdir(parents=True, exist_ok=True)
                held.append(open(path, "a"))  # noqa: SIM115 - held for as long as the job is at hand
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for claim in held:
                claim.close()
            return False
        self._claims[job] = held
        return True


def _receipt(job: Job) -> Path:
    return job.log.with_suffix(".json")


def _returned(job: Job) -> float | None:
    path = _receipt(job)
    return float(path.read_text()) if path.is_file() else None


def _text(path: Path, offset: int) -> str:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
