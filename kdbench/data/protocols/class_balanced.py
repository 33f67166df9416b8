"""Class-balanced draws of training images, for what wants to see every class at once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kdbench.core.objective import DatasetInfo
from kdbench.core.types import Batch, View
from kdbench.data.images.crop_flip import draw_view
from kdbench.distributed.collectives import own_rows
from kdbench.utils.seeding import derive, draw_integers


class ViewSource(Protocol):
    """Training images of which any view can be made: `ImageData`."""

    padding: int

    @property
    def dataset_info(self) -> DatasetInfo:
        """The labels of the training set."""

    @property
    def device(self) -> torch.device:
        """The device of the images."""

    def train_inputs(self, index: Tensor, view: View) -> Tensor:
        """Return these views of training images `index` [B]: float32 [B, 3, H, W]."""


class ClassBalanced:
    """Batches with the same number of training images of every class that has any.

    A batch is a function of (seed, epoch, step) alone. Images are drawn with replacement, each in a view of its own.
    """

    def __init__(self, data: ViewSource) -> None:
        dataset_info = data.dataset_info
        labels = dataset_info.labels[dataset_info.trained]
        self._data = data
        self._by_class = dataset_info.trained[labels.argsort(stable=True)]
        counts = torch.bincount(labels, minlength=dataset_info.num_classes)
        self._classes = counts.nonzero().flatten()
        self._counts = counts[self._classes]
        self._starts = (counts.cumsum(0) - counts)[self._classes]

    def batch(self, per_class: int, seed: int, epoch: int, step: int) -> Batch:
        """`per_class` augmented images of each class, class after class; under DDP this rank's share of them."""
        data, slot = self._data, torch.arange(per_class)
        key = derive(seed, "class-balanced", epoch, step)
        drawn = draw_integers(key, self._classes[:, None], slot[None, :], below=self._counts[:, None])
        index = self._by_class[self._starts[:, None] + drawn].flatten()
        view = draw_view(key, epoch, index, slot.repeat(len(self._classes)), data.padding)
        target = self._classes.repeat_interleave(per_class)
        own = own_rows(0, len(index))
        index, target = index[own].to(data.device), target[own].to(data.device)
        view = type(view)(*(part[own].to(data.device) for part in (view.dy, view.dx, view.flip)))
        return Batch(data.train_inputs(index, view), target, index, view, epoch, step)
