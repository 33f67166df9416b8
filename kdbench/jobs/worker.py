"""A job from its own side: it ends with its launcher and reports the number that its task returns."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

FOLLOWS, RESULT_FILE = "KDBENCH_FOLLOWS_STDIN", "KDBENCH_RESULT_FILE"
"""Environment variables that a launcher sets: the job ends with its stdin; the file for its result."""


def follow_launcher() -> None:
    """Stop this process as on SIGTERM, with a checkpoint, when its launcher is gone. Call once per job."""
    if not os.environ.pop(FOLLOWS, None):  # child processes of the job must not read this stdin
        return
    sys.stdin = open(os.devnull)  # noqa: SIM115 - nothing else may read the stdin that the thread waits on

    def wait_for_end() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_for_end, daemon=True).start()


def write_result(value: float | None) -> None:
    """Report the number that the task of this job returned to its launcher."""
    if value is not None and (path := os.environ.get(RESULT_FILE)):
        Path(path).write_text(str(value))
