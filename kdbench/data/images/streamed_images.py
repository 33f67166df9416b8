"""Image data sets that do not fit in memory: threads read and decode batches some steps in advance."""

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
from kdbench.data.images.image_io import EncodedImage
from kdbench.data.images.random_resized_crop import centre_view, draw_crops, random_view
from kdbench.distributed.collectives import own_share
from kdbench.utils.validation import check_at_least, check_between


class ImageFiles(Protocol):
    """Image files of one split, in their order.

    Attributes:
        labels: int64 [N], positions in `classes`.
        classes: Names of all classes.
    """

    labels: Tensor
    classes: tuple[str, ...]

    @property
    def sizes(self) -> Sequence[int]:
        """Size of each file in bytes; with the labels it identifies the data without reading all of it."""

    def read(self, row: int) -> EncodedImage:
        """Return the name and the bytes of a file."""


@dataclass(frozen=True)
class _Request:
    """A batch to read: rows of a split, and the random numbers of their views (None: centre crops)."""

    key: tuple[Any, ...]
    rows: list[int]
    numbers: list[list[float]] | None


class _Prefetcher:
    """Reads batches uint8 [N, 3, S, S] in a pool of threads, the following ones in advance."""

    def __init__(self, read: Callable[[_Request], Tensor], threads: int) -> None:
        self._read, self.threads = read, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._futures: dict[tuple[Any, ...], Future[Tensor]] = {}

    def get(self, request: _Request, following: Sequence[Callable[[], _Request]]) -> Tensor:
        """Return a batch and start to read the following ones; cancel all other requests."""
        requests = [request, *(make() for make in following)]
        for key in set(self._futures) - {each.key for each in requests}:
            self._futures.pop(key).cancel()
        for each in requests:
            if each.key not in self._futures:
                self._futures[each.key] = self._pool.submit(self._read, each)
        return self._futures.pop(request.key).result()


class StreamedImages(ImageData):
    """`ImageData` whose images stay in files.

    A view is a random resized crop and flip, drawn as a function of (seed, epoch, index, occurrence), so it does
    not depend on threads or restarts. Views cannot be enumerated, so a teacher's answers cannot be stored, and
    there is no second view.

    Args:
        load: Returns the training and test files.
        size: Height and width of views, in pixels.
        shorter: Length of the shorter side before the centre crop of evaluation, in pixels.
        readers: Number of threads that read and decode.
        **options: Keyword arguments of `ImageData` except `padding`.

    Raises:
        ValueError: For invalid options.
    """

    has_finite_views = False

    def __init__(
        self,
        load: Callable[[], tuple[ImageFiles, ImageFiles]],
        *,
        size: int,
        shorter: int,
        readers: int,
        **options: Any,
    ) -> None:
        if options.get("padding"):
            raise ValueError(
                "dataset.padding: images in files have random resized crops as views and no padding; leave it out"
            )
        check_between("dataset", 1, shorter, size=size)
        check_at_least("dataset", 1, readers=readers)
        super().__init__(lambda: None, **{**options, "padding": 0})  # type: ignore[arg-type, return-value]
        self._load_files, self._size, self._shorter = load, (size, size), shorter
        self.crop = size / shorter
        self._prefetcher = _Prefetcher(self._read, readers)
        self._extra_views = {}

    def setup(self, stage: str | None = None) -> None:
        """Find the files and split off the validation part, without reading images; errors as in `ImageData`."""
        if self._ready:
            return
        train, test = self._load_files()
        self._files_of = {"train": train, "test": test}
        self.fingerprint = _fingerprint(train, test)
        self._test_labels = test.labels
        self._split(train.labels, train.classes, authors_order=False)
        self._train = self._test = torch.empty(0)
        self._ready = True

    @property
    def augmentation(self) -> dict[str, Any]:
        """Options, besides the pixels, that a view's inputs depend on, as plain data."""
        return {**super().augmentation, "views": f"random part of {self._size[0]} pixels and flip"}

    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """Return the batch of one optimiser step and read the next ones in advance; ValueError for a second view."""
        if views:
            raise ValueError(
                f"{self.name}: images in files have no view {', '.join(views)}; use another loss"
            )
        request, index, counts = self._step(epoch, step)
        last = min(step + 1 + 2 * self._prefetcher.threads, self.steps_per_epoch)
        following = [lambda step=step: self._step(epoch, step)[0] for step in range(step + 1, last)]
        images = self._prefetcher.get(request, following).to(self.device, non_blocking=True)
        inputs = normalise(images, self._mean, self._std)
        return Batch(inputs, self._train_labels[index], index, None, epoch, step, shares=counts)

    def _step(self, epoch: int, step: int) -> tuple[_Request, Tensor, tuple[int, ...]]:
        order = self._order(epoch)
        rows, counts = own_share(order.starts[step], order.starts[step + 1])
        index, occurrence = order.rows[:2, rows]
        numbers = draw_crops(self.seed, epoch, index, occurrence).tolist()
        return _Request(("train", epoch, rows.start, rows.stop), index.tolist(), numbers), index, counts

    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Return centre crops of rows [start, stop) of a split and read the next ones in advance."""
        stop = min(stop, self.eval_size(split))
        batch = max(1, stop - start)
        starts = range(stop, min(self.eval_size(split), stop + 2 * self._prefetcher.threads * batch), batch)
        following = [lambda first=first: self._rows(split, first, first + batch)[0] for first in starts]
        request, index = self._rows(split, start, stop)
        images = self._prefetcher.get(request, following).to(self.device, non_blocking=True)
        labels = self._test_labels if split == "test" else self._train_labels
        return Batch(normalise(images, self._mean, self._std), labels[index], index)

    def _rows(self, split: str, start: int, stop: int) -> tuple[_Request, Tensor]:
        stop = min(stop, self.eval_size(split))
        index = torch.arange(start, stop, device=self.device)
        if split != "test":
            index = self._positions(split)[start:stop]
        source = "test" if split == "test" else "train"
        return _Request((source, split, start, stop), index.tolist(), None), index

    def _unaugmented(self, index: Tensor) -> Tensor:
        images = self._read(_Request(("train",), index.tolist(), None))
        return normalise(images.to(self.device), self._mean, self._std)

    def train_inputs(self, index: Tensor, view: View) -> Tensor:
        """Raise ValueError: files have no views by number."""
        raise ValueError(
            f"{self.name}: objectives that draw their own images need a data set in memory, these images are in files"
        )

    def _read(self, request: _Request) -> Tensor:
        """Read and decode a batch: uint8 [N, 3, S, S] in channels_last."""
        (size, _), files = self._size, self._files_of[request.key[0]]
        pixels = np.empty((len(request.rows), size, size, 3), dtype=np.uint8)
        for position, row in enumerate(request.rows):
            encoded = files.read(row)
            if request.numbers is None:
                pixels[position] = centre_view(encoded, size, self._shorter)
            else:
                pixels[position] = random_view(encoded, request.numbers[position], size)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _fingerprint(train: ImageFiles, test: ImageFiles) -> str:
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(part.labels.numpy())
        digest.update(np.asarray(part.sizes, dtype=np.int64))
    return digest.hexdigest()
