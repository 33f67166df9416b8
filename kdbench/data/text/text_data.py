"""Tokenised texts as batches that are functions of (seed, epoch, step); what every task of text shares."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from kdbench.core.objective import DatasetInfo
from kdbench.core.types import IGNORED, Batch, Tokens
from kdbench.data.base import TaskData
from kdbench.data.text.ragged import Ragged
from kdbench.data.text.tokenizers import tokenizer_hash
from kdbench.utils.seeding import generator

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Side:
    """One view of all samples of a split: what the network is given, and what it should say (see `Tokens.labels`)."""

    inputs: Ragged
    labels: Ragged


class TextData(TaskData):
    """Texts of one data set.

    `load` fills `tokenizer`, `sides` (by split: `train`, and those that are scored; then by view), `pad_id`,
    `num_classes` (the size of the vocabulary) and `fingerprint`, once. An epoch is a pass over the training samples,
    each in an order of its own; or, where `epoch_steps` is given, so many steps of such passes one after the other (a
    schedule in steps). The last batch of a pass may be smaller.
    """

    sides: Mapping[str, Mapping[str, Side]]
    pad_id: int
    tokenizer: Tokenizer
    _pass: tuple[int, Tensor] | None = None

    def __init__(
        self, name: str, seed: int, batch_size: int, eval_batch_size: int, epoch_steps: int | None = None
    ) -> None:
        super().__init__()
        for key, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        if epoch_steps is not None and epoch_steps < 1:
            raise ValueError(f"epoch_steps must be at least 1, or null for a pass, got {epoch_steps}")
        self.name, self.seed = name, seed
        self.batch_size, self.eval_batch_size, self._epoch_steps = batch_size, eval_batch_size, epoch_steps
        self.groups = {}
        self._device = torch.device("cpu")
        self._ready = False

    @abstractmethod
    def load(self) -> None:
        """Read and tokenise."""

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenise the data, once. DataError: missing or broken; ValueError: an impossible cut."""
        if self._ready:
            return
        self.load()
        self.train_size = self.eval_size("train")
        self._pass_steps = -(-self.train_size // self.batch_size)
        self.steps_per_epoch = self._epoch_steps or self._pass_steps
        self._ready = True

    @property
    def device(self) -> torch.device:
        """Where the tokens are."""
        return self._device

    def to(self, device: torch.device | str) -> Self:
        """Move all tokens to the device."""
        self._device, self._pass = torch.device(device), None
        self.sides = {
            split: {
                view: Side(side.inputs.to(device), side.labels.to(device)) for view, side in views.items()
            }
            for split, views in self.sides.items()
        }
        return self

    @property
    def about(self) -> dict[str, Any]:
        """The size of the vocabulary, and whose words they are."""
        return {
            "num_classes": self.num_classes,
            "label_space": self.label_space,
            "tokenizer": tokenizer_hash(self.tokenizer),
        }

    @property
    def asked(self) -> dict[str, Any]:
        """The training texts as tokens."""
        side = next(iter(self.sides["train"].values()))
        digest = hashlib.sha256()
        for part in (side.inputs, side.labels):
            for numbers in (part.values, part.offsets):
                digest.update(numbers.cpu().numpy())
        return {"texts": digest.hexdigest()}

    @property
    def dataset_info(self) -> DatasetInfo:
        """The vocabulary and the number of samples; they have no classes."""
        return DatasetInfo(
            self.num_classes,
            torch.zeros(self.train_size, dtype=torch.int64),
            torch.arange(self.train_size),
        )

    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """The batch of one optimiser step, with these views of its texts."""
        if epoch < 1 or not 0 <= step < self.steps_per_epoch:
            last = self.steps_per_epoch - 1
            raise ValueError(f"epochs count from 1 and steps from 0 to {last}, got {epoch} and {step}")
        number, start, stop = self._place(epoch, step)
        return self._batch("train", self._order(number)[start:stop], views, epoch, step)

    def rows(self, epoch: int, start: int, stop: int) -> int:
        """How many texts the steps [start, stop) of an epoch show."""
        places = (self._place(epoch, step) for step in range(start, stop))
        return sum(end - begin for _, begin, end in places)

    def eval_size(self, split: str) -> int:
        """The number of texts of a split."""
        if split not in self.sides:
            raise ValueError(f"there is no split {split!r}; possible are {', '.join(self.sides)}")
        return len(next(iter(self.sides[split].values())).inputs)

    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Texts [start, stop) of a split, in all views that it has."""
        index = torch.arange(start, min(stop, self.eval_size(split)), device=self.device)
        return self._batch(split, index, tuple(self.sides[split]))

    def probe_batch(self) -> Batch:
        """The first two training texts, in all views."""
        return self.eval_batch("train", 0, 2)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _place(self, epoch: int, step: int) -> tuple[int, int, int]:
        """Of a step the pass (from 1) and the samples [start, stop) of its order."""
        done = (epoch - 1) * self.steps_per_epoch + step
        number, within = divmod(done, self._pass_steps)
        start = within * self.batch_size
        return number + 1, start, min(start + self.batch_size, self.train_size)

    def _order(self, number: int) -> Tensor:
        if self._pass is None or self._pass[0] != number:
            draw = generator(self.seed, "order", number)
            self._pass = number, torch.randperm(self.train_size, generator=draw).to(self.device)
        return self._pass[1]

    def _batch(self, split: str, index: Tensor, views: Sequence[str], epoch: int = 1, step: int = 0) -> Batch:
        sides = self.sides[split]
        texts = {view: self._tokens(sides[view], index) for view in views or tuple(sides)[:1]}
        first = next(iter(texts.values()))
        sample = index[:, None].expand_as(first.labels)[first.valid]
        return Batch(first.ids, first.labels[first.valid], sample, epoch=epoch, step=step, texts=texts)

    def _tokens(self, side: Side, index: Tensor) -> Tokens:
        ids, mask = side.inputs.padded(index, self.pad_id)
        labels, _ = side.labels.padded(index, IGNORED)
        return Tokens(ids, mask, labels)
