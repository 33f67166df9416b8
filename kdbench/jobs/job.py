"""A job from outside: its command, its limits, how it ended, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A command of this Python (`-m kdbench.cli.train ...`), its log, and what tells whether it is to be run.

    again: further words of later attempts.
    claims: files that are locked while the job is at hand, so that no two launchers start it; `needed` is asked
    once they are held: whoever had them may have done the work.
    """

    title: str
    command: tuple[str, ...]
    log: Path
    again: tuple[str, ...] = ()
    claims: tuple[Path, ...] = ()
    needed: Callable[[], bool] = field(default=lambda: True, compare=False)


@dataclass(frozen=True)
class Limits:
    """at_once: jobs side by side; threads and devices: CPU threads and CUDA devices of each; timeout: seconds of an
    attempt; retries: further attempts of one that fails; pin: keep each on cores of its own, where they suffice."""

    at_once: int = 1
    threads: int = 1
    devices: int = 1
    timeout: float | None = None
    retries: int = 1
    pin: bool = False


@dataclass(frozen=True)
class Ended:
    """How a job ended. state: done, failed, stopped (it was asked to), or elsewhere (nothing was left to do);
    returned: the number that its task returned, if any."""

    job: Job
    state: str
    reason: str | None = None
    seconds: float = 0.0
    attempts: int = 0
    returned: float | None = None


def reason_in(log: str) -> str:
    """Why a command failed, in one line of its log: ours, else the end of the first traceback, else the last one."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("kdbench: ")]
    if "Traceback (most recent call last):" in lines:
        after = lines[lines.index("Traceback (most recent call last):") + 1 :]
        return next((line for line in after if not line.startswith(" ")), after[-1] if after else "")
    return own[-1].removeprefix("kdbench: ") if own else lines[-1] if lines else ""
