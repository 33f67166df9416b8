"""The folder of a run, with one atomic commit point."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from kdbench.core.errors import RunError
from kdbench.core.records import OtherVersionError, read_record
from kdbench.distributed.collectives import on_rank_0
from kdbench.utils.atomic_io import write_atomically


class RunFolder:
    """One run on disk.

    state.pt       the commit point: weights, optimiser, position; replaced as a whole
    metrics.jsonl  a line for every log_every steps and for every epoch; lines after state.pt are dropped on resume
    record.json    what tables and reports read: configuration, hashes, results, state
    config.yaml    the resolved configuration, for people
    samples.jsonl  examples of generated texts on test, at the last epoch
    *.safetensors  the student at the last epoch, and at the epoch that is best on the validation split

    Args:
        path: The folder; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    def open(self, wait: bool = False) -> None:
        """Create the folder and lock it until `close`.

        Args:
            wait: Wait for another process that has locked it.

        Raises:
            RunError: Another process has locked it and `wait` is false, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 - open until `close`
        except OSError as error:
            raise RunError(f"cannot write to the run folder {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise RunError(f"another process is at work in {self.path}") from None
            print(f"waiting for another process that is at work in {self.path}", flush=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        for half_written in self.path.glob(".*.tmp"):  # of a process that was killed
            half_written.unlink()

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @on_rank_0
    def clear(self) -> None:
        """Delete an earlier run with its exports, analyses and logs."""
        for entry in list(self.path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != ".lock":
                entry.unlink()

    @on_rank_0
    def save_state(self, state: Mapping[str, Any]) -> None:
        """Commit a state, from which a resumed run continues."""
        self._sync_metrics()
        buffer = io.BytesIO()
        torch.save({**state, "metrics_bytes": self._metrics_size()}, buffer)
        write_atomically(self.path / "state.pt", buffer.getvalue())

    def describe_checkpoint(self) -> str:
        """Return where a resumed run would start, for an error message."""
        path = self.path / "state.pt"
        return (
            f"the last good checkpoint is kept: {path}" if path.is_file() else "there was no checkpoint yet"
        )

    def load_state(self) -> dict[str, Any] | None:
        """Return the last committed state and truncate metrics.jsonl to it; None if there is none.

        Raises:
            RunError: The file is damaged.
        """
        path = self.path / "state.pt"
        if not path.is_file():
            (self.path / "metrics.jsonl").unlink(missing_ok=True)
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what reading a damaged file raises depends on the damage
            raise RunError(f"{path} cannot be read ({error}); overwrite=true starts the run again") from error
        if self._metrics_size() > state["metrics_bytes"]:
            os.truncate(self.path / "metrics.jsonl", state["metrics_bytes"])
        return state

    def _sync_metrics(self) -> None:
        """Flush metrics.jsonl to disk before the state, which records its length."""
        if self._metrics_size():
            with open(self.path / "metrics.jsonl", "rb") as file:
                os.fsync(file.fileno())

    def _metrics_size(self) -> int:
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.is_file() else 0

    @on_rank_0
    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            RunError: The disk is full.
        """
        try:
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl without an incomplete last line."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        return [
            json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]

    @on_rank_0
    def write_samples(self, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Replace samples.jsonl by generated texts of each split; without any, the file is left alone."""
        lines = [
            json.dumps({"split": split, **sample}, ensure_ascii=False)
            for split, some in samples.items()
            for sample in some
        ]
        if lines:
            write_atomically(self.path / "samples.jsonl", ("\n".join(lines) + "\n").encode())

    @on_rank_0
    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replace record.json."""
        write_atomically(self.path / "record.json", (json.dumps(record, indent=2) + "\n").encode())

    def record(self) -> dict[str, Any] | None:
        """Return record.json, or None if there is none or it is damaged; the run then writes it again.

        Raises:
            RunError: Another version of kdbench wrote it.
        """
        path = self.path / "record.json"
        if not path.is_file():
            return None
        try:
            return read_record(path)
        except OtherVersionError as error:
            raise RunError(f"{error}; move {self.path} away to train this run again") from error
        except ValueError as error:
            print(f"{error}; the run writes it again", flush=True)
            return None
