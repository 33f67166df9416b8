"""The base class of data sets: batches and splits as functions of a position."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kdbench.core.objective import DatasetInfo
from kdbench.core.types import Batch
from kdbench.data.positions import Chunk, EvalChunk
from kdbench.distributed.collectives import own_rows, world_size


def check_compatible(data: TaskData, card: Mapping[str, Any], files: str) -> None:
    """Check that a network predicts the classes or tokens of a data set.

    Args:
        data: The data set, after `setup`.
        card: The `label_info` of the data that the network was trained on.
        files: Files of the network, for the message.

    Raises:
        ValueError: If the classes, their order or the tokenizer differ.
    """
    for key, expected in data.label_info.items():
        if key in ("classes", "tokenizer") and card.get(key, expected) != expected:
            difference = "other classes, or in another order," if key == "classes" else "another tokenizer"
            raise ValueError(f"{files} was trained on {difference} than {data.name} has")


class TaskData(ABC):
    """One data set on one device, with batches as functions of (seed, epoch, step).

    Attributes:
        task: Name of its task in `kdbench.tasks`.
        name: Name in records and messages.
        label_space: Name shared by data sets whose labels mean the same, for teachers.
        seed: Seed of order and views.
        batch_size: Samples of a training step, over all ranks.
        eval_batch_size: Samples of an evaluation step.
        eval_splits: Splits that every evaluation scores.
        final_splits: Splits that are scored once, at the end, with the last and the best weights.
        num_classes: Number of logits; after `setup`.
        train_size: Number of training samples; after `setup`.
        steps_per_epoch: Steps of an epoch; after `setup`.
        fingerprint: Hash of the data; after `setup`.
        protocol: Description of changes of the training set, empty for none; after `setup`.
        groups: Classes whose mean recall is reported, by group; after `setup`.
    """

    task: ClassVar[str]
    name: str
    uses_own_name: ClassVar[bool] = False
    """Whether runs are named after `name` instead of the option of the group `dataset`, which serves any files."""

    label_space: str
    seed: int
    batch_size: int
    eval_batch_size: int
    eval_splits: tuple[str, ...] = ()
    final_splits: tuple[str, ...] = ()
    num_classes: int
    train_size: int
    steps_per_epoch: int
    fingerprint: str
    protocol: str = ""
    groups: Mapping[str, Sequence[int]]

    diagnostics: bool = False
    """Whether evaluations of classifiers include `kdbench.metrics.diagnostics`."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the data."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move all tensors to a device and return the data set itself."""

    @property
    @abstractmethod
    def dataset_info(self) -> DatasetInfo:
        """Facts about the training data for objectives."""

    @property
    def generation_limits(self) -> tuple[int, int]:
        """Id of the token that ends generated texts, and their maximum length in tokens."""
        raise NotImplementedError(f"{self.name} has no texts to generate")

    @property
    @abstractmethod
    def label_info(self) -> dict[str, Any]:
        """Classes or tokens that a network trained on the data predicts, as plain data for its checkpoint."""

    @property
    def cache_key(self) -> dict[str, Any]:
        """Further values that stored answers of a teacher depend on, besides data and labels, as plain data."""
        raise ValueError(f"answers to {self.name} cannot be stored")

    @abstractmethod
    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """Return the batch of one optimiser step.

        Args:
            epoch: Epoch, from 1.
            step: Step within the epoch, from 0.
            views: Names of additional views of the rows, for objectives that need them.
        """

    @abstractmethod
    def rows(self, epoch: int, start: int, stop: int) -> int:
        """Return the number of samples in the steps [start, stop) of an epoch."""

    def steps_with_rows(self, epoch: int) -> int:
        """Return the number of steps of an epoch that have samples; omitted classes can leave steps empty."""
        return self.steps_per_epoch

    @abstractmethod
    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Return samples [start, stop) of a split without augmentation."""

    @abstractmethod
    def eval_size(self, split: str) -> int:
        """Return the number of samples of a split; ValueError for an unknown split."""

    @abstractmethod
    def probe_batch(self) -> Batch:
        """Return a few training samples without augmentation, to determine shapes."""

    def draw(self, epoch: int, step: int) -> tuple[Tensor, tuple[int, ...]]:
        """Return the numbers that determine the batch of one step, int64 [K, B], and the rows of each rank.

        Only data sets whose task supports CUDA graphs (`Capability.CUDA_GRAPHS`) have `draw` and `batch_of`.
        """
        raise NotImplementedError(f"the batches of {self.name} cannot be recorded")

    def batch_of(
        self, rows: Tensor, epoch: int, step: int, views: Sequence[str] = (), shares: tuple[int, ...] = ()
    ) -> Batch:
        """Return the batch that `draw` determined; device work only, so that a CUDA graph can replay it."""
        raise NotImplementedError(f"the batches of {self.name} cannot be recorded")

    def class_balanced_batch(self, per_class: int, seed: int, epoch: int, step: int) -> Batch:
        """Return `per_class` augmented training samples of each class, drawn with replacement; see `ClassBalanced`."""
        raise NotImplementedError(f"{self.name} draws no samples by class")

    @abstractmethod
    def setup(self, stage: str | None = None) -> None:
        """Load the data, once.

        Args:
            stage: `fit` or `test`; data sets load the same for both.

        Raises:
            DataError: The data are missing or damaged.
            ValueError: A split is impossible.
        """

    def train_chunks(self, position: tuple[int, int], steps_per_chunk: int) -> Iterator[Chunk]:
        """Yield the chunks of optimiser steps from a position to the end of its epoch.

        Args:
            position: Epoch (from 1) and step (from 0).
            steps_per_chunk: Steps of a chunk. Chunks end at multiples of it, also after a resume within a chunk.
        """
        epoch, start = position
        while start < self.steps_per_epoch:
            stop = min((start // steps_per_chunk + 1) * steps_per_chunk, self.steps_per_epoch)
            yield Chunk(epoch, start, stop)
            start = stop

    def eval_chunks(self, split: str) -> Iterator[EvalChunk]:
        """Yield chunks of `eval_batch_size` samples of a split, under DDP of this rank's share."""
        size = self.eval_size(split)
        if size < world_size():
            raise ValueError(
                f"split {split} of {self.name} has {size} samples, too few for {world_size()} ranks"
            )
        share = own_rows(0, size)
        for start in range(share.start, share.stop, self.eval_batch_size):
            yield EvalChunk(split, start, min(start + self.eval_batch_size, share.stop))
