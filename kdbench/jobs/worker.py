"""A job from inside: it ends with its launcher, and tells it what its task returned."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

# what the environment tells a job of its launcher: that it ends with its stdin, and where its result goes
FOLLOWS, RECEIPT = "KDBENCH_FOLLOWS_STDIN", "KDBENCH_RECEIPT"


def follow_launcher() -> None:
    """End as by SIGTERM, with a checkpoint, when whoever started this job is no more; called once, by the job."""
    if not os.environ.pop(FOLLOWS, None):  # further processes of the job must not look at this stdin
        return
    sys.stdin = open(os.devnull)  # noqa: SIM115 - so that nothing else reads what we watch

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def leave_receipt(value: float | None) -> None:
    """Tell whoever started this job the number that its task returned; called by the job."""
    if value is not None and (path := os.environ.get(RECEIPT)):
        Path(path).write_text(str(value))
