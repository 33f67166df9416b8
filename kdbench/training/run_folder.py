"""The record of a run: one folder, one commit point, and reading them back."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from kdbench.core.errors import RunError
from kdbench.distributed.collectives import on_rank_0
from kdbench.utils.atomic_io import write_atomically

SCHEMA = 1


class RunFolder:
    """One run on disk.

    state.pt       the commit point: weights, optimiser, position; replaced as a whole
    metrics.jsonl  a line per log_every steps and per epoch; what is newer than state.pt is dropped on resume
    record.json    what tables and reports read: configuration, hashes, results, state
    config.yaml    the resolved configuration, for people
    samples.jsonl  some of what a student of text said on test, at the last epoch
    *.safetensors  the student at the last epoch, and at the epoch best on the validation part
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    def open(self, wait: bool = False) -> None:
        """Make the folder and keep other processes out of it until this one ends.

        Where another process is at work in it: wait until it has ended, or raise RunError.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 - held for the life of the process
        except OSError as error:
            raise RunError(f"cannot write to the run folder {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise RunError(f"another process is at work in {self.path}") from None
            print(f"waiting for another process that is at work in {self.path}", flush=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        for half_written in self.path.glob(".*.tmp"):  # by a process that was killed
            half_written.unlink()

    def close(self) -> None:
        """Let other processes in again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @on_rank_0
    def clear(self) -> None:
        """Forget an earlier run, and what was made of it: exports, analyses, logs."""
        for there in list(self.path.iterdir()):
            if there.is_dir() and not there.is_symlink():
                shutil.rmtree(there)
            elif there.name != ".lock":
                there.unlink()

    @on_rank_0
    def save_state(self, state: Mapping[str, Any]) -> None:
        """Commit: from here on a resumed run starts at this state."""
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
        """The last committed state, with metrics.jsonl cut back to it; None if there is none."""
        path = self.path / "state.pt"
        if not path.is_file():
            (self.path / "metrics.jsonl").unlink(missing_ok=True)
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what reading a damaged file raises depends on the damage
            raise RunError(f"{path} cannot be read ({error}); overwrite=true begins the run anew") from error
        if self._metrics_size() > state["metrics_bytes"]:
            os.truncate(self.path / "metrics.jsonl", state["metrics_bytes"])
        return state

    def _sync_metrics(self) -> None:
        """The state records how long metrics.jsonl is: that much must be on the disk before it."""
        if self._metrics_size():
            with open(self.path / "metrics.jsonl", "rb") as file:
                os.fsync(file.fileno())

    def _metrics_size(self) -> int:
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.is_file() else 0

    @on_rank_0
    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        try:
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self.path / 'metrics.jsonl'}: {error.strerror}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a half-written last line is left out."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        return [
            json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]

    @on_rank_0
    def write_samples(self, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Replace samples.jsonl by some of what the network said, by split; nothing where it said nothing to read."""
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
        """record.json, or None where there is none, or half of one: then the run writes it anew, from state.pt.

        RunError where another version of kdbench wrote it: nothing there is to be lost.
        """
        path = self.path / "record.json"
        if not path.is_file():
            return None
        try:
            return read_record(path)
        except OtherVersionError as error:
            raise RunError(f"{error}; move {self.path} away to train this run anew") from error
        except ValueError as error:
            print(f"{error}; a run that goes on, or begins anew, writes it again", flush=True)
            return None


class OtherVersionError(ValueError):
    """A record that another version of kdbench wrote."""


def read_record(path: Path) -> dict[str, Any]:
    """A record.json; ValueError where it is none, with the reason."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        schema = record.get("schema") if isinstance(record, dict) else None
        raise OtherVersionError(f"{path} is of another version of kdbench (schema {schema}, here {SCHEMA})")
    return record


def records(
    folder: Path, left_out: Callable[[ValueError], None] = lambda _: None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(run folder, record) of every readable run below `folder`, oldest name first; `left_out` is told why others
    are not there."""
    for path in sorted(folder.glob("**/record.json")):
        try:
            yield path.parent, read_record(path)
        except ValueError as error:
            left_out(error)


def finished_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    """(run folder, record) of the finished run in `folder`, or of the only one below it.

    ValueError where there is none, or more than one, or where its network does not answer by itself.
    """
    runs = [(path, record) for path, record in records(folder) if not record.get("is_stage")]
    done = [(path, record) for path, record in runs if record["state"] == "done"]
    if len(done) != 1:
        found = ", ".join(f"{path.name} ({record['state']})" for path, record in runs) or "none"
        raise ValueError(f"{folder} should be or hold one finished run; runs there: {found}")
    ((path, record),) = done
    if path.joinpath("student.predictor.safetensors").is_file():
        raise ValueError(
            f"{path} is a student that answers with a head of its loss ({record['names']['loss']}), "
            f"without which it cannot be a teacher"
        )
    return path, record
