"""Data sets of images that do not fit in memory: read and decoded by threads, some steps before they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kdbench.core.types import Batch, View
from kdbench.data.images.crop_flip import normalise
from kdbench.data.images.image_data import ImageData
from kdbench.data.images.image_io import Encoded
from kdbench.data.images.random_resized_crop import centre_of_file, draw_parts, view_of_file
from kdbench.distributed.collectives import own_share


class Files(Protocol):
    """Image files of one split, in their order."""

    labels: Tensor
    classes: tuple[str, ...]

    @property
    def sizes(self) -> Sequence[int]:
        """In bytes: with the labels, what tells one copy of a data set from another without reading all of it."""

    def read(self, row: int) -> Encoded:
        """One of them."""


@dataclass(frozen=True)
class _Wanted:
    """A batch of images, to be read: rows of a split, and for a view of each the numbers that decide it."""

    key: tuple[Any, ...]
    rows: list[int]
    numbers: list[list[float]] | None


class _Ahead:
    """Batches of images as uint8 [N, 3, S, S], each read by one of several threads, the next ones meanwhile."""

    def __init__(self, read: Callable[[_Wanted], Tensor], threads: int) -> None:
        self._read, self.threads = read, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._begun: dict[tuple[Any, ...], Future[Tensor]] = {}

    def get(self, wanted: _Wanted, following: Sequence[Callable[[], _Wanted]]) -> Tensor:
        """The batch; those that follow are begun, and what was begun and is neither is let go."""
        line = [wanted, *(make() for make in following)]
        for key in set(self._begun) - {one.key for one in line}:
            self._begun.pop(key).cancel()
        for one in line:
            if one.key not in self._begun:
                self._begun[one.key] = self._pool.submit(self._read, one)
        return self._begun.pop(wanted.key).result()


class StreamedImages(ImageData):
    """`ImageData` whose images stay files: a view is a random part of an image, drawn as a function of (seed, epoch,
    index, occurrence), so that nothing depends on threads or restarts.

    size: of a view, in pixels. shorter: what the shorter side is scaled to before the centre is cut out for evaluation.
    readers: threads. The views of an image cannot be counted: no stored answers; and there is no second view.
    """

    counts_views = False

    def __init__(
        self,
        load: Callable[[], tuple[Files, Files]],
        *,
        size: int,
        shorter: int,
        readers: int,
        **options: Any,
    ) -> None:
        if options.get("padding"):
            raise ValueError("dataset.padding is for small images; here a view is a random part of an image")
        if not 1 <= size <= shorter:
            raise ValueError(f"size={size} must be at least 1 and at most shorter={shorter}")
        if readers < 1:
            raise ValueError(f"readers must be at least 1, got {readers}")
        super().__init__(lambda: None, **{**options, "padding": 0})  # type: ignore[arg-type, return-value]
        self._files, self._size, self._shorter = load, (size, size), shorter
        self.crop = size / shorter
        self._ahead = _Ahead(self._read, readers)
        self._more = {}

    def setup(self, stage: str | None = None) -> None:
        """Find the files, and cut; no image is read. DataError and ValueError as `ImageData`."""
        if self._ready:
            return
        train, test = self._files()
        self._of = {"train": train, "test": test}
        self.fingerprint = _fingerprint(train, test)
        self._test_labels = test.labels
        self._cut(train.labels, train.classes, authors_order=False)
        self._train = self._test = torch.empty(0)
        self._ready = True

    @property
    def augmentation(self) -> dict[str, Any]:
        """What a view's inputs depend on beside the pixels, as plain data."""
        return {**super().augmentation, "views": f"random part of {self._size[0]} pixels and flip"}

    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """The batch of one optimiser step; the next ones are read meanwhile. ValueError for a second view."""
        if views:
            raise ValueError(f"{self.name} is read from files, and has no further view ({', '.join(views)})")
        wanted, index, counts = self._step(epoch, step)
        last = min(step + 1 + 2 * self._ahead.threads, self.steps_per_epoch)
        following = [lambda at=at: self._step(epoch, at)[0] for at in range(step + 1, last)]
        images = self._ahead.get(wanted, following).to(self.device, non_blocking=True)
        inputs = normalise(images, self._mean, self._std)
        return Batch(inputs, self._train_labels[index], index, None, epoch, step, shares=counts)

    def _step(self, epoch: int, step: int) -> tuple[_Wanted, Tensor, tuple[int, ...]]:
        order = self._order(epoch)
        rows, counts = own_share(order.starts[step], order.starts[step + 1])
        index, occurrence = order.rows[:2, rows]
        numbers = draw_parts(self.seed, epoch, index, occurrence).tolist()
        return _Wanted(("train", epoch, rows.start, rows.stop), index.tolist(), numbers), index, counts

    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """The centres of rows [start, stop) of a split; the next rows are read meanwhile."""
        stop = min(stop, self.eval_size(split))
        at_once = max(1, stop - start)
        starts = range(stop, min(self.eval_size(split), stop + 2 * self._ahead.threads * at_once), at_once)
        following = [lambda at=at: self._rows(split, at, at + at_once)[0] for at in starts]
        wanted, index = self._rows(split, start, stop)
        images = self._ahead.get(wanted, following).to(self.device, non_blocking=True)
        labels = self._test_labels if split == "test" else self._train_labels
        return Batch(normalise(images, self._mean, self._std), labels[index], index)

    def _rows(self, split: str, start: int, stop: int) -> tuple[_Wanted, Tensor]:
        stop = min(stop, self.eval_size(split))
        index = torch.arange(start, stop, device=self.device)
        if split != "test":
            index = self._positions(split)[start:stop]
        source = "test" if split == "test" else "train"
        return _Wanted((source, split, start, stop), index.tolist(), None), index

    def _plain(self, index: Tensor) -> Tensor:
        images = self._read(_Wanted(("train",), index.tolist(), None))
        return normalise(images.to(self.device), self._mean, self._std)

    def train_inputs(self, index: Tensor, view: View) -> Tensor:
        """Not here: ValueError."""
        raise ValueError(
            f"{self.name} is read from files: objectives that draw images of their own have none"
        )

    def _read(self, wanted: _Wanted) -> Tensor:
        """The images of a batch, uint8 [N, 3, S, S] in channels_last."""
        (size, _), files = self._size, self._of[wanted.key[0]]
        pixels = np.empty((len(wanted.rows), size, size, 3), dtype=np.uint8)
        for place, row in enumerate(wanted.rows):
            encoded = files.read(row)
            if wanted.numbers is None:
                pixels[place] = centre_of_file(encoded, size, self._shorter)
            else:
                pixels[place] = view_of_file(encoded, wanted.numbers[place], size)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _fingerprint(train: Files, test: Files) -> str:
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(part.labels.numpy())
        digest.update(np.asarray(part.sizes, dtype=np.int64))
    return digest.hexdigest()
