"""Class-balanced batches of training images, for objectives that need all classes at once."""

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
    """Training images with arbitrary views, such as `ImageData`."""

    padding: int

    @property
    def dataset_info(self) -> DatasetInfo:
        """Labels of the training set."""

    @property
    def device(self) -> torch.device:
        """Device of the images."""

    def train_inputs(self, index: Tensor, view: View) -> Tensor:
        """Return views of training images `index` [B]: float32 [B, 3, H, W]."""


class ClassBalanced:
    """Batches with equally many training images of every class, except classes without images.

    A batch is a function of (seed, epoch, step) alone. Images are drawn with replacement, each with its own view.
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
        """Return a batch, sorted by class; under DDP this rank's share.

        Args:
            per_class: Number of images of each class.
            seed: Seed of the draws.
            epoch: Epoch, from 1.
            step: Step within the epoch, from 0.
        """
        data, slot = self._data, torch.arange(per_class)
        key = derive(seed, "class-balanced", epoch, step)
        choice = draw_integers(key, self._classes[:, None], slot[None, :], below=self._counts[:, None])
        index = self._by_class[self._starts[:, None] + choice].flatten()
        view = draw_view(key, epoch, index, slot.repeat(len(self._classes)), data.padding)
        target = self._classes.repeat_interleave(per_class)
        share = own_rows(0, len(index))
        index, target = index[share].to(data.device), target[share].to(data.device)
        view = type(view)(*(part[share].to(data.device) for part in (view.dy, view.dx, view.flip)))
        return Batch(data.train_inputs(index, view), target, index, view, epoch, step)
