"""A data set as a LightningDataModule: resident tensors, stateless order and views, no worker processes."""

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
    *("_index", "_occurrence", "_subset", "_held_out", "_mean", "_std"),
)


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The rows of one epoch in their order: int64 [5, n], of each its image, how often the epoch has shown it before,
    and dy, dx and flip of its view. Step s has those from starts[s] to starts[s + 1]."""

    number: int
    rows: Tensor
    starts: list[int]


class ImageData(TaskData):
    """Images of one data set on one device, and their batches as a function of (seed, epoch, step).

    `load` is called by `setup`, nothing before. After `setup`, beside what `TaskData` says: classes; train_size counts
    the different images, fingerprint is of the clean data before any cut. splits is what `eval_batch` can show.

    class_names: where they are known before anything is loaded, omit_classes are checked at once.
    protocol: see `Protocol`; it applies to what the validation cut leaves.
    """

    task = "images"

    crop = 1.0
    """The side of what is evaluated, as a part of the shorter side of the scaled image."""

    counts_views = True
    """Whether an image has a number of views that can be counted, so that a teacher's answers to them can be stored."""

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
        self._more = {"strong": self._strong}
        self._epoch: _Epoch | None = None
        self._balanced: ClassBalanced | None = None
        self._ready = False

    def setup(self, stage: str | None = None) -> None:
        """Load and cut the data, once. DataError: missing or broken; ValueError: an impossible cut or protocol."""
        if self._ready:
            return
        splits = self._load()
        train, test = splits.train, splits.test
        self.fingerprint = fingerprint(splits)
        self._test_labels = test.labels
        self._cut(train.labels, train.classes, splits.authors_order)
        self._size = (train.images.shape[2], train.images.shape[3])
        self._train, self._test = zero_pad(train.images, self.padding), zero_pad(test.images, 0)
        self._ready = True

    def _cut(self, labels: Tensor, classes: Sequence[str], authors_order: bool) -> None:
        """Hold images out for selection, and let the protocol say which of the rest an epoch shows."""
        self.classes, self.num_classes = tuple(classes), len(classes)
        kept, self._held_out = split_validation(labels, classes, self.validation, self.validation_seed)
        training = self._protocol.apply(labels, classes, kept)
        self.protocol = self._protocol.title(classes, authors_order and not self.validation)
        self.groups, self._train_labels = training.groups, training.labels
        self._index, self._occurrence, self._shown = training.index, training.occurrence, training.is_shown
        self._subset = training.subset
        self.train_size = len(self._subset)
        self.steps_per_epoch = -(-len(self._index) // self.batch_size)

    @property
    def dataset_info(self) -> DatasetInfo:
        """The labels are the full training set's, which `Batch.index` counts in, as the student is told them."""
        return DatasetInfo(self.num_classes, self._train_labels.cpu(), self._subset.cpu())

    @property
    def about(self) -> dict[str, Any]:
        """The classes, and what they are called together."""
        return {
            "num_classes": self.num_classes,
            "label_space": self.label_space,
            "classes": list(self.classes),
        }

    @property
    def train_images(self) -> Tensor:
        """All training images as they are: uint8 [N, 3, H, W], a view of what is resident."""
        rows, columns = (slice(self.padding, self.padding + side) for side in self._size)
        return self._train[..., rows, columns]

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self._train_labels.device

    def to(self, device: torch.device | str) -> "ImageData":
        """Move everything resident to the device."""
        for name in _RESIDENT:
            setattr(self, name, getattr(self, name).to(device))
        self._epoch = None
        return self

    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """The augmented batch of one optimiser step, with further views of its rows.

        The last may be smaller; with omit=loop any may be, and may have no row at all. Under DDP: this rank's rows.
        """
        rows, counts = self.draw(epoch, step)
        return self.batch_of(rows, epoch, step, views, counts)

    def draw(self, epoch: int, step: int) -> tuple[Tensor, tuple[int, ...]]:
        """What makes the batch of one step, int64 [5, B] (see `_Epoch.rows`), and how many rows each rank has."""
        if epoch < 1 or not 0 <= step < self.steps_per_epoch:
            last = self.steps_per_epoch - 1
            raise ValueError(f"epochs count from 1 and steps from 0 to {last}, got {epoch} and {step}")
        order = self._order(epoch)
        rows, counts = own_share(order.starts[step], order.starts[step + 1])
        return order.rows[:, rows], counts

    def batch_of(
        self, rows: Tensor, epoch: int, step: int, views: Sequence[str] = (), shares: tuple[int, ...] = ()
    ) -> Batch:
        """The batch that shows these rows (`draw`): nothing but work of the device."""
        index, occurrence, *drawn = rows
        view = View(*drawn)
        more = {name: self._more[name](epoch, index, occurrence) for name in views}
        inputs, target = self.train_inputs(index, view), self._train_labels[index]
        return Batch(inputs, target, index, view, epoch, step, more, shares=shares)

    def class_balanced_batch(self, per_class: int, seed: int, epoch: int, step: int) -> Batch:
        """Return `per_class` augmented training images of each class; see `ClassBalanced`."""
        if self._balanced is None:
            self._balanced = ClassBalanced(self)
        return self._balanced.batch(per_class, seed, epoch, step)

    def rows(self, epoch: int, start: int, stop: int) -> int:
        """How many images the steps [start, stop) of an epoch show."""
        starts = self._order(epoch).starts
        return starts[stop] - starts[start]

    def steps_with_rows(self, epoch: int) -> int:
        """How many of the epoch's steps show anything."""
        return len(set(self._order(epoch).starts)) - 1

    def train_inputs(self, index: Tensor, view: View) -> Tensor:
        """These views of training images `index` [B]: float32 [B, 3, H, W], normalised, channels_last."""
        return normalise(crop_flip(self._train, index, view, self._size), self._mean, self._std)

    @property
    def augmentation(self) -> dict[str, Any]:
        """What a view's inputs depend on beside the pixels, as plain data."""
        mean, std = self._mean.tolist(), self._std.tolist()
        return {"views": "crop and flip", "padding": self.padding, "mean": mean, "std": std}

    @property
    def asked(self) -> dict[str, Any]:
        """How many images there are, and what is done to them."""
        return {"images": len(self._train_labels), "augmentation": self.augmentation}

    @property
    def all_views(self) -> int:
        """How many different views the training set has: the keys are the numbers below this."""
        return len(self._train_labels) * view_count(self.padding)

    def view_keys(self, index: Tensor, view: View) -> Tensor:
        """One number int64 [B] for each (image, view): images count in the full training set."""
        return index * view_count(self.padding) + view_number(view, self.padding)

    def view_inputs(self, keys: Tensor) -> Tensor:
        """The views with these keys [B]: float32 [B, 3, H, W], as `train_batch` would show them."""
        views = view_count(self.padding)
        return self.train_inputs(keys // views, view_of(keys % views, self.padding))

    def planned_views(self, seed: int, epochs: int) -> Tensor:
        """The keys of all views that a run with this seed will draw, int64, ascending, each once."""
        drawn = torch.zeros(self.all_views, dtype=torch.bool)
        shown = self._shown.nonzero().flatten().to(self.device)
        index, occurrence = self._index[shown], self._occurrence[shown]
        for epoch in range(1, epochs + 1):
            view = draw_view(seed, epoch, index, occurrence, self.padding)
            drawn[self.view_keys(index, view).cpu()] = True
        return drawn.nonzero().flatten()

    def _strong(self, epoch: int, index: Tensor, occurrence: Tensor) -> Tensor:
        """Another crop and flip, then RandAugment and a cutout: float32 [B, 3, H, W]."""
        view = draw_view(derive(self.seed, "strong"), epoch, index, occurrence, self.padding)
        images = crop_flip(self._train, index, view, self._size)
        strong = randaugment_cutout(images, derive(self.seed, "strong", epoch), index, occurrence)
        return normalise(strong, self._mean, self._std)

    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Rows [start, stop) of a split as they are; `index` counts in the training set but for "test"."""
        rows = slice(start, min(stop, self.eval_size(split)))
        if split != "test":
            index = self._positions(split)[rows]
            return Batch(self._plain(index), self._train_labels[index], index)
        index = torch.arange(rows.start, rows.stop, device=self.device)
        return Batch(normalise(self._test[rows], self._mean, self._std), self._test_labels[rows], index)

    def eval_size(self, split: str) -> int:
        """The number of images of a split; ValueError unless it is one of `splits`."""
        if split not in self.splits:
            raise ValueError(f"there is no split {split!r}; possible are {', '.join(self.splits)}")
        return len(self._test_labels if split == "test" else self._positions(split))

    def _positions(self, split: str) -> Tensor:
        """Of a split that is cut from the training set."""
        return self._held_out if split == "validation" else self._subset

    def probe(self, rows: int = 4) -> Tensor:
        """The first training images as they are, float32 [rows, 3, H, W]: for finding out shapes."""
        return self._plain(self._subset[:rows])

    def probe_batch(self) -> Batch:
        """The probe, with labels that say nothing."""
        nothing = torch.zeros(len(inputs := self.probe()), dtype=torch.int64)
        return Batch(inputs=inputs, target=nothing, index=nothing)

    def _order(self, epoch: int) -> _Epoch:
        """Drawn for a whole epoch at once, so that a step is a slice: fewer kernels, the same numbers."""
        if self._epoch is None or self._epoch.number != epoch:
            order = torch.randperm(len(self._index), generator=generator(self.seed, "order", epoch))
            shown = self._shown[order]
            ends = (torch.arange(1, self.steps_per_epoch + 1) * self.batch_size).clamp(max=len(order))
            starts = [0, *shown.cumsum(0)[ends - 1].tolist()]
            slots = order[shown].to(self.device)
            index, occurrence = self._index[slots], self._occurrence[slots]
            view = draw_view(self.seed, epoch, index, occurrence, self.padding)
            rows = torch.stack([index, occurrence, view.dy, view.dx, view.flip])
            self._epoch = _Epoch(epoch, rows, starts)
        return self._epoch

    def _plain(self, index: Tensor) -> Tensor:
        centre = torch.full_like(index, self.padding)
        return self.train_inputs(index, View(centre, centre, torch.zeros_like(index)))
