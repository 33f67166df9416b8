"""Run jobs in parallel processes: claims, retries, timeouts, and a common stop."""

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

from kdbench.jobs.job import Job, JobResult, Limits, reason_in
from kdbench.jobs.worker import FOLLOWS, RESULT_FILE
from kdbench.utils.hardware import cuda_devices, free_cores
from kdbench.utils.signals import handle_signals

JOURNAL = "jobs.jsonl"
"""File in the folder of the logs with one line for every finished attempt."""

_GRACE = 60.0
"""Seconds that a job has to write its checkpoint before it is killed."""


@dataclass
class _RunningJob:
    job: Job
    attempt: int
    process: subprocess.Popen[bytes]
    began: float
    offset: int
    late: bool = False
    stop_requested_at: float | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def request_stop(self) -> None:
        self.stop_requested_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill all processes of the job, including those that it started."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)


class JobScheduler:
    """Runs jobs within limits.

    Args:
        limits: Parallelism, resources, timeout and retries.
        on_end: Called with the result of each job.
        note: Prints a message.
        on_failure: Called for every failed attempt.

    Attributes:
        stopped_by: The signal that stopped the scheduler early, if any.
    """

    def __init__(
        self,
        limits: Limits,
        on_end: Callable[[JobResult], None],
        note: Callable[[str], None] = print,
        on_failure: Callable[[JobResult], None] = lambda _: None,
    ) -> None:
        self.limits, self._note = limits, note
        self._on_end, self._on_failure = on_end, on_failure
        self.stopped_by: int | None = None
        self._extra_signals: int | None = None
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: dict[int, _RunningJob] = {}
        self._claims: dict[Job, list[IO[str]]] = {}
        self._results: list[JobResult] = []
        self._next_start = 0.0
        self._noted_waiting = False

    def run(self, jobs: Sequence[Job]) -> list[JobResult]:
        """Run jobs in order and return their results.

        After SIGINT or SIGTERM the running jobs stop with a checkpoint and no other job starts. A second signal
        kills them.
        """
        self._waiting, self._results = deque((job, 1) for job in jobs), []
        with self._signals_handled():
            while self._running or (self._waiting and self.stopped_by is None):
                self._forward_signal()
                for slot in list(self._running):
                    self._supervise(slot)
                if self.stopped_by is None and time.monotonic() >= self._next_start:
                    self._fill_free_slots()
                time.sleep(0.05)
        return self._results

    # ---- signals

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        def on_signal(number: int) -> None:
            self.stopped_by = number
            self._extra_signals = None if self._extra_signals is None else self._extra_signals + 1

        try:
            with handle_signals(on_signal):
                yield
        finally:
            for running in self._running.values():  # an exception here must not leave processes behind
                running.kill()

    def _forward_signal(self) -> None:
        if self.stopped_by is None:
            return
        if self._extra_signals is None:
            self._extra_signals = 0
            words = "each with a checkpoint; a second signal kills them"
            self._note(f"{signal.Signals(self.stopped_by).name}: {len(self._running)} jobs stop, {words}")
            for running in self._running.values():
                running.request_stop()
        elif self._extra_signals:
            for running in self._running.values():
                running.kill()

    # ---- one job

    def _fill_free_slots(self) -> None:
        """Start, in every free slot, the first waiting job that no other launcher has claimed."""
        for slot in set(range(self.limits.at_once)) - set(self._running):
            for _ in range(len(self._waiting)):
                job, attempt = self._waiting.popleft()
                if not self._claim(job):
                    self._waiting.append((job, attempt))
                elif job.needed():
                    self._running[slot] = self._start(job, attempt, slot)
                    break
                else:
                    self._end(JobResult(job, "elsewhere", attempts=attempt - 1))
        if self._waiting and len(self._running) < self.limits.at_once:  # other launchers hold the rest
            self._next_start = time.monotonic() + 1.0
            if not self._running and not self._noted_waiting:
                self._noted_waiting = True
                names = ", ".join(job.title for job, _ in list(self._waiting)[:3])
                self._note(f"waiting for other processes that run {len(self._waiting)} of the jobs: {names}")

    def _start(self, job: Job, attempt: int, slot: int) -> _RunningJob:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, *job.command, *(job.again if attempt > 1 else ())]
        _result_file(job).unlink(missing_ok=True)
        with open(job.log, "ab") as log:
            log.write(f"== attempt {attempt}, {_now()}: {shlex.join(words)}\n".encode())
            log.flush()
            offset = log.tell()
            process = subprocess.Popen(
                words,
                env={
                    **os.environ,
                    **self._environment(slot),
                    FOLLOWS: "1",
                    RESULT_FILE: str(_result_file(job)),
                },
                stdin=subprocess.PIPE,  # closes when this process ends; see `follow_launcher`
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the scheduler only, which forwards it
                pass_fds=[claim.fileno() for claim in self._claims.get(job, ())],
            )
        self._pin(process.pid, slot)
        return _RunningJob(job, attempt, process, time.monotonic(), offset)

    def _environment(self, slot: int) -> dict[str, str]:
        """Return the environment variables that give a slot its share of threads and CUDA devices."""
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
            with suppress(OSError):  # the process may have ended
                os.sched_setaffinity(pid, cores)

    def _supervise(self, slot: int) -> None:
        running = self._running[slot]
        code = running.process.poll()
        if code is None:
            self._check_timeout(running)
            return
        del self._running[slot]
        self._next_start = 0.0
        running.kill()  # processes that the job may have left behind
        if running.process.stdin:
            running.process.stdin.close()
        self._conclude(running, code)

    def _check_timeout(self, running: _RunningJob) -> None:
        limit = self.limits.timeout
        if limit is not None and running.seconds > limit and running.stop_requested_at is None:
            running.late = True
            running.request_stop()
        if running.stop_requested_at is not None and time.monotonic() - running.stop_requested_at > _GRACE:
            running.kill()

    def _conclude(self, running: _RunningJob, code: int) -> None:
        job, attempt, usage = running.job, running.attempt, 2
        if code == 0:
            state, reason = "done", None
        elif self.stopped_by is not None:
            state, reason = "stopped", f"stopped by {signal.Signals(self.stopped_by).name}"
        else:
            state, reason = "failed", self._reason(running, code)
        result = JobResult(job, state, reason, running.seconds, attempt, _read_result(job))
        self._write_journal(result, code)
        if state == "failed":
            self._on_failure(result)
        if state == "failed" and attempt <= self.limits.retries and code != usage:
            self._note(f"{job.title}: {reason}; starting attempt {attempt + 1} (log: {job.log})")
            self._waiting.append((job, attempt + 1))
        else:
            self._end(result)

    def _reason(self, running: _RunningJob, code: int) -> str:
        if running.late:
            return f"timeout: not finished after {self.limits.timeout:g} s"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return reason_in(_text(running.job.log, running.offset)) or f"exit code {code}"

    def _end(self, result: JobResult) -> None:
        for claim in self._claims.pop(result.job, ()):
            claim.close()
        self._results.append(result)
        self._on_end(result)

    @staticmethod
    def _write_journal(result: JobResult, code: int) -> None:
        job = result.job
        line: dict[str, Any] = {"title": job.title, "attempt": result.attempts, "state": result.state}
        line |= {"code": code, "reason": result.reason, "seconds": round(result.seconds, 1)}
        line |= {"log": str(job.log), "ended": _now()}
        with open(job.log.parent / JOURNAL, "a") as journal:
            journal.write(json.dumps(line) + "\n")

    # ---- claims

    def _claim(self, job: Job) -> bool:
        """Lock all claims of a job, or none. Returns whether they are held.

        The job's process inherits the locks, so they outlive a kill of this process.
        """
        if job in self._claims:
            return True
        held: list[IO[str]] = []
        try:
            for path in job.claims:
                path.parent.mkdir(parents=True, exist_ok=True)
                held.append(open(path, "a"))  # noqa: SIM115 - stays open until the job has ended
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for claim in held:
                claim.close()
            return False
        self._claims[job] = held
        return True


def _result_file(job: Job) -> Path:
    return job.log.with_suffix(".json")


def _read_result(job: Job) -> float | None:
    path = _result_file(job)
    return float(path.read_text()) if path.is_file() else None


def _text(path: Path, offset: int) -> str:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
