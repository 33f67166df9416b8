"""Write caches of a teacher's answers in blocks, so that a kill loses one block at most."""

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
from kdbench.teachers.cache.logits import CARD, KEYS, STORAGES, SealedCache, cache_identity, checksum
from kdbench.teachers.live import LiveTeacher
from kdbench.utils.atomic_io import write_atomically
from kdbench.utils.provenance import provenance

_CALLS = 40
"""Calls of the teacher between two commits."""


@dataclass(frozen=True)
class CacheWriter(ABC):
    """Computes the answers of a teacher and writes them to a cache.

    A cache has `units` (views or texts), each of one or more rows in its files.

    Attributes:
        teacher: The live teacher.
        data: The data, set up.
        storage: Number format of the answers.

    Raises:
        ValueError: The storage is unknown.
    """

    teacher: LiveTeacher
    data: TaskData
    storage: str = "float16"

    unit: ClassVar[str]
    """The word for units in messages."""

    batch_units: ClassVar[int]
    """Units of one teacher call."""

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ValueError(f"storage={self.storage}; possible: {', '.join(STORAGES)}")

    @property
    @abstractmethod
    def units(self) -> int:
        """The number of units."""

    @property
    def rows(self) -> int:
        """The number of rows of the files."""
        return self.row_of(self.units)

    def row_of(self, unit: int) -> int:
        """Return the first row of a unit."""
        return unit

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Bytes per row of each file."""

    @property
    def keys_bytes(self) -> bytes | None:
        """The contents of the file of keys, or None for a cache without one."""
        return None

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.rows * sum(self.widths.values())

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder of the cache."""

    @property
    @abstractmethod
    def card_entries(self) -> dict[str, Any]:
        """Additional entries of the card."""

    @property
    @abstractmethod
    def description(self) -> str:
        """A description for messages."""

    @abstractmethod
    def find_existing(self) -> SealedCache | None:
        """Return a sealed cache that has all answers already, or None."""

    @abstractmethod
    def open(self) -> SealedCache:
        """Open the cache that `run` sealed."""

    @abstractmethod
    def compute(self, start: int, stop: int) -> dict[str, Tensor]:
        """Return the answers to the units [start, stop) by file, on the CPU and in their storage."""

    def to_storage(self, values: Tensor) -> Tensor:
        """Convert values to the storage.

        Raises:
            RunError: The storage cannot represent them.
        """
        converted = values.float().cpu().to(STORAGES[self.storage])
        if not converted.isfinite().all():
            raise RunError(
                f"{self.storage} cannot represent numbers up to {values.abs().max():.3g}; give storage=float32"
            )
        return converted

    def seconds(self) -> float:
        """Estimate the time for all units from a timed teacher call."""
        few = min(self.units, self.batch_units)
        self.compute(0, few)  # warm up
        started = time.perf_counter()
        self.compute(0, few)
        return (time.perf_counter() - started) * self.units / few

    def run(self, on_progress: Callable[[int], None] = lambda _: None) -> SealedCache:
        """Compute and write the missing answers, and seal the cache.

        Args:
            on_progress: Called with the number of units after every block.

        Raises:
            RunError: The disk is full, or the storage cannot represent the answers.
            BusyError: Another process writes this cache.
        """
        folder = self.folder
        started = time.perf_counter()
        with _locked(folder):
            if not (folder / CARD).is_file():
                done = self.committed_units()
                self._check_space(done)
                files = list(self.widths)
                if (keys := self.keys_bytes) is not None:
                    write_atomically(folder / KEYS, keys)
                    files.append(KEYS)
                self._write(done, on_progress)
                sums = {name: checksum(folder / name) for name in files}
                self.seal(time.perf_counter() - started, sums)
        return self.open()

    def committed_units(self) -> int:
        """Return the number of units that an unfinished run of the writer has committed."""
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

    def _write(self, done: int, on_progress: Callable[[int], None]) -> None:
        try:
            with ExitStack() as opened:
                files = {}
                for name, width in self.widths.items():
                    path = self.folder / name
                    files[name] = opened.enter_context(open(path, "r+b" if path.is_file() else "w+b"))
                    files[name].truncate(
                        self.row_of(done) * width
                    )  # drops what was written after the last commit
                    files[name].seek(self.row_of(done) * width)
                while done < self.units:
                    stop = min(done + _CALLS * self.batch_units, self.units)
                    for start in range(done, stop, self.batch_units):
                        answers = self.compute(start, min(start + self.batch_units, stop))
                        for name, values in answers.items():
                            files[name].write(values.numpy().tobytes())
                    for file in files.values():
                        file.flush()
                        os.fsync(file.fileno())
                    write_atomically(self.folder / _NOTE, json.dumps({"rows": stop}).encode())
                    done = stop
                    on_progress(done)
        except OSError as error:
            raise RunError(
                f"cannot write into {self.folder}: {error.strerror}; the same command continues"
            ) from error

    def seal(self, seconds: float, sums: dict[str, str]) -> None:
        """Write the card, which commits the cache: it is not read before and not written afterwards.

        Args:
            seconds: The time that filling took.
            sums: SHA-256 of the files by name.
        """
        card: dict[str, Any] = {
            "subject": cache_identity(self.teacher, self.data),
            "teacher": self.teacher.name,
            "dataset": self.data.name,
            "storage": self.storage,
            "rows": self.rows,
            **self.card_entries,
            "sha256": sums,
            "seconds": seconds,
            **provenance(),
        }
        write_atomically(self.folder / CARD, (json.dumps(card, indent=2) + "\n").encode())
        for name in sums:  # after the commit, because an unfinished cache must stay writable
            (self.folder / name).chmod(0o444)
        (self.folder / _NOTE).unlink(missing_ok=True)


_NOTE = "filling.json"


class BusyError(RunError):
    """Another process writes the same cache."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(f"another process writes {folder}") from error
            yield
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror}") from error
