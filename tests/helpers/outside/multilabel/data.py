"""The data set: noisy images of coloured patterns, one pattern for each set of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from kdbench.core import Batch, DatasetInfo
from kdbench.data.images.image_data import ImageData
from kdbench.data.images.options import ImageOptions
from kdbench.data.sources.synthetic import load_fake

LABELS = 3
"""The number of labels L that each image has or has not."""


class MultiLabelImages(ImageData):
    """Images whose class is a set of labels; batches have a row for each label."""

    task = "multilabel"

    def setup(self, stage: str | None = None) -> None:
        """Generate the images."""
        super().setup(stage)
        self.num_classes = 2

    @property
    def dataset_info(self) -> DatasetInfo:
        """Images have no single class."""
        return DatasetInfo(2, torch.zeros(self.train_size, dtype=torch.int64), torch.arange(self.train_size))

    def batch_of(
        self, rows: Tensor, epoch: int, step: int, views: Sequence[str] = (), shares: tuple[int, ...] = ()
    ) -> Batch:
        """Return a training batch."""
        return _with_labels(super().batch_of(rows, epoch, step, views, shares))

    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Return images of a split."""
        return _with_labels(super().eval_batch(split, start, stop))

    def probe_batch(self) -> Batch:
        """Return a few training images."""
        return _with_labels(super().probe_batch())


def _with_labels(batch: Batch) -> Batch:
    bits = torch.arange(LABELS, device=batch.target.device)
    target = (batch.target[:, None] >> bits) & 1
    return replace(batch, target=target.flatten(), index=batch.index.repeat_interleave(LABELS))


def multilabel_images(
    *, train: int, test: int, mean: Sequence[float], std: Sequence[float], **options: Unpack[ImageOptions]
) -> MultiLabelImages:
    """Build the data set.

    Args:
        train: The number of training images.
        test: The number of test images.
        mean: The mean of each channel, for normalisation.
        std: The standard deviation of each channel.
        **options: See `ImageData`.
    """
    load = partial(load_fake, 2**LABELS, train, test)
    return MultiLabelImages(load, name="multilabel", label_space="multilabel", mean=mean, std=std, **options)
