"""Filling a cache: a teacher's logits for many views, block by block, so that a kill costs a block at most."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from kdbench.core.errors import RunError
from kdbench.data.base import TaskData
from kdbench.teachers.cache.logits import CARD, KEYS, STORAGES, Sealed, checksum, subject
from kdbench.teachers.live import LiveTeacher
from kdbench.utils.atomic_io import write_atomically
from kdbench.utils.provenance import provenance

_CALLS = 40
"""Calls of the teacher between two commits."""


@dataclass(frozen=True)
class CacheWriter(ABC):
    """What a cache will hold, before it does: the answers to so many `units`, each of one row or more of the files."""

    teacher: LiveTeacher
    data: TaskData
    storage: str = "float16"

    unit: ClassVar[str]
    """What a unit is called."""

    at_once: ClassVar[int]
    """Units that the teacher answers in one call."""

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ValueError(f"storage={self.storage}; possible: {', '.join(STORAGES)}")

    @property
    @abstractmethod
    def units(self) -> int:
        """How many are answered."""

    @property
    def rows(self) -> int:
        """How many rows the files have."""
        return self.row_of(self.units)

    def row_of(self, unit: int) -> int:
        """The row at which a unit begins."""
        return unit

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """The files with their bytes per row."""

    @property
    def keys_bytes(self) -> bytes | None:
        """What else is kept beside them, or None."""
        return None

    @property
    def bytes(self) -> int:
        """On the disk."""
        return self.rows * sum(self.widths.values())

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where it is filled."""

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What the card says of it beside what it says of all."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What is stored, for people."""

    @abstractmethod
    def found(self) -> Sealed | None:
        """A sealed cache that has all of it already, or None."""

    @abstractmethod
    def opened(self) -> Sealed:
        """What `run` has sealed."""

    @abstractmethod
    def answers(self, start: int, stop: int) -> dict[str, Tensor]:
        """Of the units [start, stop), on the CPU, as they are stored, by file."""

    def stored(self, values: Tensor) -> Tensor:
        """In the storage; RunError where it cannot hold them."""
        found = values.float().cpu().to(STORAGES[self.storage])
        if not found.isfinite().all():
            raise RunError(
                f"{self.storage} cannot hold numbers up to {values.abs().max():.3g}; storage=float32"
            )
        return found

    def seconds(self) -> float:
        """How long filling will take here, from the teacher's time for a few units."""
        few = min(self.units, self.at_once)
        self.answers(0, few)  # warm up
        started = time.perf_counter()
        self.answers(0, few)
        return (time.perf_counter() - started) * self.units / few

    def run(self, say: Callable[[int], None] = lambda _: None) -> Sealed:
        """Fill what is missing, and seal; `say` is told how many units are there after every block.

        Raises RunError where the disk is or becomes full, another process fills this cache, or the storage cannot
        hold the logits.
        """
        folder = self.folder
        started = time.perf_counter()
        with _locked(folder):
            if not (folder / CARD).is_file():
                done = self.committed()
                self._check_space(done)
                files = list(self.widths)
                if (keys := self.keys_bytes) is not None:
                    write_atomically(folder / KEYS, keys)
                    files.append(KEYS)
                self._write(done, say)
                sums = {name: checksum(folder / name) for name in files}
                self.seal(time.perf_counter() - started, sums)
        return self.opened()

    def committed(self) -> int:
        """How many units an earlier, unfinished filling left."""
        note = self.folder / _NOTE
        return int(json.loads(note.read_text())["rows"]) if note.is_file() else 0

    def _check_space(self, done: int) -> None:
        needed = self.bytes * (self.units - done) // self.units
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise RunError(
                f"the cache needs {needed / 1e9:.2f} GB more in {self.folder}, and {free / 1e9:.2f} GB are free; "
                f"KDBENCH_HOME names another place"
            )

    def _write(self, done: int, say: Callable[[int], None]) -> None:
        try:
            with ExitStack() as opened:
                files = {}
                for name, width in self.widths.items():
                    path = self.folder / name
                    files[name] = opened.enter_context(open(path, "r+b" if path.is_file() else "w+b"))
                    files[name].truncate(self.row_of(done) * width)  # what came after the last commit
                    files[name].seek(self.row_of(done) * width)
                while done < self.units:
                    stop = min(done + _CALLS * self.at_once, self.units)
                    for start in range(done, stop, self.at_once):
                        found = self.answers(start, min(start + self.at_once, stop))
                        for name, values in found.items():
                            files[name].write(values.numpy().tobytes())
                    for file in files.values():
                        file.flush()
                        os.fsync(file.fileno())
                    write_atomically(self.folder / _NOTE, json.dumps({"rows": stop}).encode())
                    done = stop
                    say(done)
        except OSError as error:
            raise RunError(
                f"cannot write into {self.folder}: {error.strerror}; the same command goes on"
            ) from error

    def seal(self, seconds: float, sums: dict[str, str]) -> None:
        """The card is the commit: before it nobody reads the cache, after it nobody writes it.

        sums: SHA-256 of the files by name.
        """
        card: dict[str, Any] = {
            "subject": subject(self.teacher, self.data),
            "teacher": self.teacher.name,
            "dataset": self.data.name,
            "storage": self.storage,
            "rows": self.rows,
            **self.about,
            "sha256": sums,
            "seconds": seconds,
            **provenance(),
        }
        write_atomically(self.folder / CARD, (json.dumps(card, indent=2) + "\n").encode())
        for name in sums:  # after the commit: what cannot be written could not be filled further
            (self.folder / name).chmod(0o444)
        (self.folder / _NOTE).unlink(missing_ok=True)


_NOTE = "filling.json"


class BusyError(RunError):
    """Another process is at work on the same cache."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(f"another process fills {folder}") from error
            yield
    except OSError as error:
        raise RunError(f"cannot fill {folder}: {error.strerror}") from error
