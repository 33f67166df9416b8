"""What every data set offers to a run, whatever its task: batches and splits as functions of a position."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from lightning import LightningDataModule
from torch import Tensor

from kdbench.core.objective import DatasetInfo
from kdbench.core.types import Batch
from kdbench.data.positions import Chunk, ChunkLoader, EvalChunk
from kdbench.distributed.collectives import own_rows, world_size


def check_fits(data: TaskData, about: Mapping[str, Any], files: str) -> None:
    """ValueError where what is said of a network (the files it came from) answers with other classes or tokens."""
    for key, own in data.about.items():
        if key in ("classes", "tokenizer") and about.get(key, own) != own:
            other = "other classes, or in another order," if key == "classes" else "another tokenizer"
            raise ValueError(f"{files} was trained on {other} than {data.name} has")


class TaskData(LightningDataModule):
    """One data set on one device, and its batches as a function of (seed, epoch, step).

    task: the name of its task in `kdbench.tasks`.
    eval_splits: what runs are scored on at every evaluation; final_splits: what they are
    scored on once, at the end, with the weights of the last epoch and those of the best.
    After `setup`: num_classes (of logits), steps_per_epoch, train_size, fingerprint (a hash of the data), protocol (in
    words, empty for the plain data), groups (classes whose mean recall is reported, by name).
    """

    task: ClassVar[str]
    name: str
    uses_own_name: ClassVar[bool] = False
    """Whether runs are named after `name` and not after the option of the group `dataset`, which serves any files."""

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

    position: tuple[int, int] = (1, 0)
    """Epoch (from 1) and step (from 0) at which the next training loader starts."""

    steps_per_chunk: int = 1

    diagnostics: bool = False
    """Whether evaluations say all that is known of how sure a network is, where it answers with classes."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the data are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move everything resident to the device."""

    @property
    @abstractmethod
    def dataset_info(self) -> DatasetInfo:
        """What an objective may know of the training data."""

    @property
    def limits(self) -> tuple[int, int]:
        """Of texts to be written: the id of the token that ends them, and the most tokens."""
        raise NotImplementedError(f"nothing is written for {self.name}")

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What a network trained on it answers with, as plain data: kept beside its weights, and compared."""

    @property
    def asked(self) -> dict[str, Any]:
        """What else a teacher's answers in training depend on, beside the data and the classes, as plain data."""
        raise ValueError(f"answers to {self.name} cannot be stored")

    @abstractmethod
    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """The batch of one optimiser step, with the views of its rows that the losses ask for."""

    @abstractmethod
    def rows(self, epoch: int, start: int, stop: int) -> int:
        """How many samples the steps [start, stop) of an epoch show."""

    def steps_with_rows(self, epoch: int) -> int:
        """How many of the epoch's steps show anything."""
        return self.steps_per_epoch

    @abstractmethod
    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Samples [start, stop) of a split as they are."""

    @abstractmethod
    def eval_size(self, split: str) -> int:
        """The number of samples of a split; ValueError unless there is such a split."""

    @abstractmethod
    def probe_batch(self) -> Batch:
        """A few training samples as they are: for finding out shapes."""

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

    def train_dataloader(self) -> ChunkLoader:
        """Chunks from `position` to the end of its epoch."""
        return ChunkLoader(self._train_chunks)

    def val_dataloader(self) -> list[ChunkLoader]:
        """One loader of EvalChunks for each of `eval_splits`."""
        return [ChunkLoader(lambda split=split: self.eval_chunks(split)) for split in self.eval_splits]  # type: ignore[misc]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Chunks are positions, and the data are where they should be."""
        return batch

    def _train_chunks(self) -> Iterator[Chunk]:
        epoch, start = self.position
        while start < self.steps_per_epoch:
            # a resumed epoch has its seams where they would have been without the interruption
            stop = min((start // self.steps_per_chunk + 1) * self.steps_per_chunk, self.steps_per_epoch)
            yield Chunk(epoch, start, stop)
            start = stop

    def eval_chunks(self, split: str) -> Iterator[EvalChunk]:
        """A split, under DDP this rank's share of it, in pieces of eval_batch_size samples."""
        size = self.eval_size(split)
        if size < world_size():
            raise ValueError(f"the split {split} has {size} samples: too few for {world_size()} ranks")
        own = own_rows(0, size)
        for start in range(own.start, own.stop, self.eval_batch_size):
            yield EvalChunk(split, start, min(start + self.eval_batch_size, own.stop))
