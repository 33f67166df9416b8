"""Filling a cache: a teacher's logits for many views, block by block, so that a kill costs a block at most."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.core import Batch, RunError
from kdbench.data.module import ImageData
from kdbench.files import write_atomically
from kdbench.provenance import provenance
from kdbench.teacher.cache import CARD, KEYS, LOGITS, STORAGES, Cache, checksum, place, sealed, subject
from kdbench.teacher.live import LiveTeacher

_ROWS = 500
"""Views that the teacher answers at once."""

_BLOCK = 40 * _ROWS
"""Views between two commits."""


@dataclass(frozen=True)
class Filling:
    """What a cache will hold, before it does.

    keys: the views, int64, ascending; None for all that the training set has.
    """

    teacher: LiveTeacher
    data: ImageData
    keys: Tensor | None = None
    storage: str = "float16"

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ValueError(f"storage={self.storage}; possible: {', '.join(STORAGES)}")

    @property
    def rows(self) -> int:
        """How many views."""
        return self.data.all_views if self.keys is None else len(self.keys)

    @property
    def bytes(self) -> int:
        """On the disk, with the keys where they are not all there are."""
        logits = self.rows * self.data.num_classes * STORAGES[self.storage].itemsize
        return logits + (0 if self.keys is None else 8 * self.rows)

    @property
    def folder(self) -> Path:
        """Where it is filled: told apart by its views and its storage."""
        views = "all" if self.keys is None else hashlib.sha256(self.keys.numpy()).hexdigest()[:8]
        return place(self.teacher, self.data) / f"{views}-{self.storage}"

    def seconds(self) -> float:
        """How long filling will take here, from the teacher's time for a few views."""
        keys = self._block(0, min(self.rows, _ROWS))
        self._answers(keys)  # warm up
        started = time.perf_counter()
        self._answers(keys)
        return (time.perf_counter() - started) * self.rows / len(keys)

    def run(self, say: Callable[[int], None] = lambda _: None) -> Cache:
        """Fill what is missing, and seal; `say` is told how many views are there after every block.

        Raises RunError where the disk is or becomes full, another process fills this cache, or the storage cannot
        hold the logits.
        """
        folder = self.folder
        started = time.perf_counter()
        with _locked(folder):
            if not (folder / CARD).is_file():
                done = self.committed()
                self._check_space(done)
                if self.keys is not None:
                    write_atomically(folder / KEYS, self.keys.numpy().tobytes())
                self._write(done, say)
                files = [LOGITS] if self.keys is None else [LOGITS, KEYS]
                sums = {name: checksum(folder / name) for name in files}
                self.seal(time.perf_counter() - started, sums)
        return Cache(folder)

    def found(self) -> Cache | None:
        """A sealed cache that has all of these views already, or None."""
        keys = torch.arange(self.rows) if self.keys is None else self.keys
        return next((cache for cache in sealed(self.teacher, self.data) if cache.covers(keys)), None)

    def committed(self) -> int:
        """How many views an earlier, unfinished filling left."""
        note = self.folder / _NOTE
        return int(json.loads(note.read_text())["rows"]) if note.is_file() else 0

    def _check_space(self, done: int) -> None:
        needed = self.bytes * (self.rows - done) // self.rows
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise RunError(
                f"the cache needs {needed / 1e9:.2f} GB more in {self.folder}, and {free / 1e9:.2f} GB are free; "
                f"KDBENCH_HOME names another place"
            )

    def _write(self, done: int, say: Callable[[int], None]) -> None:
        path = self.folder / LOGITS
        width = self.data.num_classes * STORAGES[self.storage].itemsize
        try:
            with open(path, "r+b" if path.is_file() else "w+b") as file:
                file.truncate(done * width)  # what came after the last commit
                file.seek(done * width)
                while done < self.rows:
                    stop = min(done + _BLOCK, self.rows)
                    for start in range(done, stop, _ROWS):
                        keys = self._block(start, min(start + _ROWS, stop))
                        file.write(self._answers(keys).numpy().tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                    write_atomically(self.folder / _NOTE, json.dumps({"rows": stop}).encode())
                    done = stop
                    say(done)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}; the same command goes on") from error

    def _block(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop) if self.keys is None else self.keys[start:stop]

    def _answers(self, keys: Tensor) -> Tensor:
        """The logits of these views [N, C], on the CPU, as they are stored."""
        inputs = self.data.view_inputs(keys.to(self.data.device))
        batch = Batch(inputs, keys, keys)
        logits: Tensor = self.teacher(batch).logits.float().cpu()
        stored = logits.to(STORAGES[self.storage])
        if not stored.isfinite().all():
            raise RunError(
                f"{self.storage} cannot hold logits up to {logits.abs().max():.3g}; storage=float32"
            )
        return stored

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
            "complete": self.keys is None,
            "sha256": sums,
            "seconds": seconds,
            **provenance(),
        }
        for name in sums:
            (self.folder / name).chmod(0o444)
        write_atomically(self.folder / CARD, (json.dumps(card, indent=2) + "\n").encode())
        (self.folder / _NOTE).unlink(missing_ok=True)


_NOTE = "filling.json"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"another process fills {folder}") from error
            yield
    except OSError as error:
        raise RunError(f"cannot fill {folder}: {error.strerror}") from error
