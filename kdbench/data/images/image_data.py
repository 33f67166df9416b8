"""Image data sets in memory: resident tensors, stateless order and views, no worker processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from kdbench.core.objective import DatasetInfo
from kdbench.core.types import Batch, View
from kdbench.data.base import TaskData
from kdbench.data.images.crop_flip import (
    crop_flip,
    draw_view,
    normalise,
    view_count,
    view_number,
    view_of,
    zero_pad,
)
from kdbench.data.images.image_io import Splits, fingerprint
from kdbench.data.images.options import check_options
from kdbench.data.images.randaugment import randaugment_cutout
from kdbench.data.protocols.class_balanced import ClassBalanced
from kdbench.data.protocols.protocol import Protocol, ProtocolOptions
from kdbench.data.protocols.splits import split_validation
from kdbench.distributed.collectives import own_share
from kdbench.utils.seeding import derive, generator

_RESIDENT = (
    *("_train", "_train_labels", "_test", "_test_labels"),
    *("_index", "_occurrence", "_subset", "_validation_rows", "_mean", "_std"),
)


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The rows of one epoch in their order.

    Attributes:
        number: Epoch, from 1.
        rows: int64 [5, n]: image, occurrence within the epoch, and dy, dx and flip of the view.
        starts: Step s has the rows [starts[s], starts[s + 1]).
    """

    number: int
    rows: Tensor
    starts: list[int]


class ImageData(TaskData):
    """Images of one data set on one device.

    After `setup`, `classes` are the class names, `train_size` counts distinct images, and `fingerprint` is that of
    the original data. `splits` are the splits of `eval_batch`.

    Args:
        load: Returns the data; called by `setup` only.
        name: Name in records and messages.
        label_space: Name shared by data sets whose labels mean the same, for teachers.
        seed: Seed of order and views.
        batch_size: Images of a training step, over all ranks.
        mean: Mean of each channel, for normalisation.
        std: Standard deviation of each channel.
        class_names: Class names if they are known before loading; `omit_classes` is then checked at once.
        validation: Number of training images to split off for selection; 0 for none.
        validation_seed: Seed of that split.
        padding: Padding of random crops, in pixels.
        eval_batch_size: Images of an evaluation step.
        **protocol: See `Protocol`; it applies to the images outside the validation part.

    Raises:
        ValueError: For invalid options.
    """

    task = "images"

    crop = 1.0
    """Side of the evaluation crop as a fraction of the scaled image's shorter side."""

    has_finite_views = True
    """Whether the views of an image can be enumerated, so that a teacher's answers to them can be stored."""

    def __init__(
        self,
        load: Callable[[], Splits],
        *,
        name: str,
        label_space: str,
        seed: int,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] | None = None,
        validation: int = 0,
        validation_seed: int = 0,
        padding: int = 4,
        eval_batch_size: int = 500,
        **protocol: Unpack[ProtocolOptions],
    ) -> None:
        super().__init__()
        check_options(batch_size, eval_batch_size, validation, padding, mean, std)
        self._protocol = Protocol(**protocol)
        if class_names is not None:
            self._protocol.omitted_labels(class_names)
        self.name, self.label_space = name, label_space
        self.seed, self.validation_seed = seed, validation_seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.validation, self.padding = validation, padding
        self.eval_splits = ("validation", "test") if validation else ("test",)
        self.splits = (*self.eval_splits, "train")
        self._load = load
        self._mean, self._std = torch.tensor(list(mean)).float(), torch.tensor(list(std)).float()
        self._extra_views = {"strong": self._strong_view}
        self._epoch: _Epoch | None = None
        self._balanced: ClassBalanced | None = None
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Load and split the data, once.

        Raises:
            DataError: If data are missing or damaged.
            ValueError: If the validation part or the protocol is impossible.
        """
        if self._ready:
            return
        splits = self._load()
        train, test = splits.train, splits.test
        self.fingerprint = fingerprint(splits)
        self._test_labels = test.labels
        self._split(train.labels, train.classes, splits.authors_order)
        self._size = (train.images.shape[2], train.images.shape[3])
        self._train, self._test = zero_pad(train.images, self.padding), zero_pad(test.images, 0)
        self._ready = True

    def _split(self, labels: Tensor, classes: Sequence[str], authors_order: bool) -> None:
        """Split off the validation part and apply the protocol to the rest."""
        self.classes, self.num_classes = tuple(classes), len(classes)
        available, self._validation_rows = split_validation(
            labels, classes, self.validation, self.validation_seed
        )
        training = self._protocol.apply(labels, classes, available)
        self.protocol = self._protocol.title(classes, authors_order and not self.validation)
        self.groups, self._train_labels = training.groups, training.labels
        self._index, self._occurrence, self._is_shown = training.index, training.occurrence, training.is_shown
        self._subset = training.subset
        self.train_size = len(self._subset)
        self.steps_per_epoch = -(-len(self._index) // self.batch_size)

    @property
    def dataset_info(self) -> DatasetInfo:
        """Facts about the training set; labels, with noise, are those of the full set, as `Batch.index` counts."""
        return DatasetInfo(self.num_classes, self._train_labels.cpu(), self._subset.cpu())

    @property
    def label_info(self) -> dict[str, Any]:
        """Number, label space and names of the classes."""
        return {
            "num_classes": self.num_classes,
            "label_space": self.label_space,
            "classes": list(self.classes),
        }

    @property
    def train_images(self) -> Tensor:
        """The training images without augmentation, uint8 [N, 3, H, W]; shares memory with the data set."""
        rows, columns = (slice(self.padding, self.padding + side) for side in self._size)
        return self._train[..., rows, columns]

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self._train_labels.device

    def to(self, device: torch.device | str) -> "ImageData":
        """Move all tensors to a device and return the data set itself."""
        for name in _RESIDENT:
            setattr(self, name, getattr(self, name).to(device))
        self._epoch = None
        return self

    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """Return the augmented batch of one optimiser step, under DDP this rank's rows.

        The last batch of an epoch can be smaller; with omit=loop any batch can be smaller or empty.

        Args:
            epoch: Epoch, from 1.
            step: Step within the epoch, from 0.
            views: Names of additional views: `strong`.
        """
        rows, counts = self.draw(epoch, step)
        return self.batch_of(rows, epoch, step, views, counts)

    def draw(self, epoch: int, step: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return the numbers that determine the batch of one step, int64 [5, B], and the rows of each rank.

        The numbers are image, occurrence within the epoch, and dy, dx and flip of the view.
        """
        if epoch < 1 or not 0 <= step < self.steps_per_epoch:
            last = self.steps_per_epoch - 1
            raise ValueError(f"epochs count from 1 and steps from 0 to {last}, got {epoch} and {step}")
        order = self._order(epoch)
        rows, counts = own_share(order.starts[step], order.starts[step + 1])
        return order.rows[:, rows], counts

    def batch_of(
        self, rows: Tensor, epoch: int, step: int, views: Sequence[str] = (), shares: tuple[int, ...] = ()
    ) -> Batch:
        """Return the batch that `draw` determined; device work only, so that a CUDA graph can replay it."""
        index, occurrence, *view_numbers = rows
        view = View(*view_numbers)
        extra = {name: self._extra_views[name](epoch, index, occurrence) for name in views}
        inputs, target = self.train_inputs(index, view), self._train_labels[index]
        return Batch(inputs, target, index, view, epoch, step, extra, shares=shares)

    def class_balanced_batch(self, per_class: int, seed: int, epoch: int, step: int) -> Batch:
        """Return `per_class` augmented training images of each class; see `ClassBalanced`."""
        if self._balanced is None:
            self._balanced = ClassBalanced(self)
        return self._balanced.batch(per_class, seed, epoch, step)

    def rows(self, epoch: int, start: int, stop: int) -> int:
        """Return the number of images in the steps [start, stop) of an epoch."""
        starts = self._order(epoch).starts
        return starts[stop] - starts[start]

    def steps_with_rows(self, epoch: int) -> int:
        """Return the number of steps of an epoch that have images."""
        return len(set(self._order(epoch).starts)) - 1

    def train_inputs(self, index: Tensor, view: View) -> Tensor:
        """Return views of training images `index` [B]: float32 [B, 3, H, W], normalised, channels_last."""
        return normalise(crop_flip(self._train, index, view, self._size), self._mean, self._std)

    @property
    def augmentation(self) -> dict[str, Any]:
        """Options, besides the pixels, that a view's inputs depend on, as plain data."""
        mean, std = self._mean.tolist(), self._std.tolist()
        return {"views": "crop and flip", "padding": self.padding, "mean": mean, "std": std}

    @property
    def cache_key(self) -> dict[str, Any]:
        """Number of images and their augmentation."""
        return {"images": len(self._train_labels), "augmentation": self.augmentation}

    @property
    def num_views(self) -> int:
        """Number of different views of the training set; keys of views are smaller."""
        return len(self._train_labels) * view_count(self.padding)

    def view_keys(self, index: Tensor, view: View) -> Tensor:
        """Return a number for each (image, view), int64 [B]; images count in the full training set."""
        return index * view_count(self.padding) + view_number(view, self.padding)

    def view_inputs(self, keys: Tensor) -> Tensor:
        """Return the views with these keys [B]: float32 [B, 3, H, W], equal to those of `train_batch`."""
        views = view_count(self.padding)
        return self.train_inputs(keys // views, view_of(keys % views, self.padding))

    def views_of_run(self, seed: int, epochs: int) -> Tensor:
        """Return the distinct keys of all views that a run draws, int64, ascending.

        Args:
            seed: Seed of the run.
            epochs: Number of its epochs.
        """
        is_drawn = torch.zeros(self.num_views, dtype=torch.bool)
        shown = self._is_shown.nonzero().flatten().to(self.device)
        index, occurrence = self._index[shown], self._occurrence[shown]
        for epoch in range(1, epochs + 1):
            view = draw_view(seed, epoch, index, occurrence, self.padding)
            is_drawn[self.view_keys(index, view).cpu()] = True
        return is_drawn.nonzero().flatten()

    def _strong_view(self, epoch: int, index: Tensor, occurrence: Tensor) -> Tensor:
        """Return another crop and flip, then RandAugment and Cutout: float32 [B, 3, H, W]."""
        view = draw_view(derive(self.seed, "strong"), epoch, index, occurrence, self.padding)
        images = crop_flip(self._train, index, view, self._size)
        strong = randaugment_cutout(images, derive(self.seed, "strong", epoch), index, occurrence)
        return normalise(strong, self._mean, self._std)

    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Return rows [start, stop) of a split without augmentation.

        `index` counts in the training set, for the test split in the test set.
        """
        rows = slice(start, min(stop, self.eval_size(split)))
        if split != "test":
            index = self._positions(split)[rows]
            return Batch(self._unaugmented(index), self._train_labels[index], index)
        index = torch.arange(rows.start, rows.stop, device=self.device)
        return Batch(normalise(self._test[rows], self._mean, self._std), self._test_labels[rows], index)

    def eval_size(self, split: str) -> int:
        """Return the number of images of a split; ValueError unless it is one of `splits`."""
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}; possible are {', '.join(self.splits)}")
        return len(self._test_labels if split == "test" else self._positions(split))

    def _positions(self, split: str) -> Tensor:
        """Return the images of a split of the training set, in its order."""
        return self._validation_rows if split == "validation" else self._subset

    def probe(self, rows: int = 4) -> Tensor:
        """Return the first training images without augmentation, float32 [rows, 3, H, W], to determine shapes."""
        return self._unaugmented(self._subset[:rows])

    def probe_batch(self) -> Batch:
        """Return the images of `probe` with zeros as labels."""
        inputs = self.probe()
        zeros = torch.zeros(len(inputs), dtype=torch.int64)
        return Batch(inputs=inputs, target=zeros, index=zeros)

    def _order(self, epoch: int) -> _Epoch:
        """Return the rows of an epoch, drawn at once, so that a step is a slice: fewer kernels, equal numbers."""
        if self._epoch is None or self._epoch.number != epoch:
            order = torch.randperm(len(self._index), generator=generator(self.seed, "order", epoch))
            shown = self._is_shown[order]
            ends = (torch.arange(1, self.steps_per_epoch + 1) * self.batch_size).clamp(max=len(order))
            starts = [0, *shown.cumsum(0)[ends - 1].tolist()]
            slots = order[shown].to(self.device)
            index, occurrence = self._index[slots], self._occurrence[slots]
            view = draw_view(self.seed, epoch, index, occurrence, self.padding)
            rows = torch.stack([index, occurrence, view.dy, view.dx, view.flip])
            self._epoch = _Epoch(epoch, rows, starts)
        return self._epoch

    def _unaugmented(self, index: Tensor) -> Tensor:
        centre = torch.full_like(index, self.padding)
        return self.train_inputs(index, View(centre, centre, torch.zeros_like(index)))
