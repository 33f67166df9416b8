"""A job as its launcher sees it: command, limits, outcome and reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A command of this Python interpreter.

    Attributes:
        title: Name of the job in messages.
        command: Arguments of the interpreter: `-m kdbench.cli.train ...`.
        log: File that receives the output of every attempt.
        again: Arguments that later attempts add.
        claims: Files that stay locked until the job has ended, so that no two launchers start it.
        needed: Whether the job still has to run. It is called once the claims are held, because their previous
            owner may have done the work.
    """

    title: str
    command: tuple[str, ...]
    log: Path
    again: tuple[str, ...] = ()
    claims: tuple[Path, ...] = ()
    needed: Callable[[], bool] = field(default=lambda: True, compare=False)


@dataclass(frozen=True)
class Limits:
    """Limits of a scheduler.

    Attributes:
        at_once: Number of jobs that run at a time.
        threads: CPU threads of each job.
        devices: CUDA devices of each job.
        timeout: Seconds that an attempt may take; None for no limit.
        retries: Further attempts of a job that fails.
        pin: Whether to bind each job to cores of its own if there are enough.
    """

    at_once: int = 1
    threads: int = 1
    devices: int = 1
    timeout: float | None = None
    retries: int = 1
    pin: bool = False


@dataclass(frozen=True)
class JobResult:
    """The outcome of a job.

    Attributes:
        job: The job.
        state: `done`, `failed`, `stopped` (by a signal) or `elsewhere` (another launcher did the work).
        reason: Why it failed or stopped, in one line.
        seconds: Duration of the last attempt.
        attempts: Number of attempts.
        value: The number that its task returned, if any.
    """

    job: Job
    state: str
    reason: str | None = None
    seconds: float = 0.0
    attempts: int = 0
    value: float | None = None


def reason_in(log: str) -> str:
    """Return why a command failed, in one line of its log.

    This is the message of the first traceback, else the last message of kdbench, else the last line.
    """
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("kdbench: ")]
    if "Traceback (most recent call last):" in lines:
        after = lines[lines.index("Traceback (most recent call last):") + 1 :]
        return next((line for line in after if not line.startswith(" ")), after[-1] if after else "")
    return own[-1].removeprefix("kdbench: ") if own else lines[-1] if lines else ""
