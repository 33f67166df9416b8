"""Base class of tokenised text data sets, with batches as functions of (seed, epoch, step)."""

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
from kdbench.utils.validation import check_at_least

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenView:
    """One view of all samples of a split.

    Attributes:
        inputs: Token ids of the inputs.
        labels: Token ids of the targets; see `Tokens.labels`.
    """

    inputs: Ragged
    labels: Ragged


class TextData(TaskData):
    """Texts of one data set.

    An epoch is a pass over the training samples in its own order, or `epoch_steps` steps of consecutive passes. The
    last batch of a pass can be smaller.

    Attributes:
        token_views: Tokens by split (`train` and the scored ones), then by view; set by `load`.
        pad_id: Id of the padding; set by `load`.
        tokenizer: Tokenizer of all texts; set by `load`.

    Args:
        name: Name in records and messages.
        seed: Seed of the order.
        batch_size: Texts of a training step.
        eval_batch_size: Texts of an evaluation step.
        epoch_steps: Steps of an epoch; None for one pass.

    Raises:
        ValueError: For invalid options.
    """

    token_views: Mapping[str, Mapping[str, TokenView]]
    pad_id: int
    tokenizer: Tokenizer
    _pass: tuple[int, Tensor] | None = None

    def __init__(
        self, name: str, seed: int, batch_size: int, eval_batch_size: int, epoch_steps: int | None = None
    ) -> None:
        super().__init__()
        check_at_least("dataset", 1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        if epoch_steps is not None:
            check_at_least("dataset", 1, epoch_steps=epoch_steps)
        self.name, self.seed = name, seed
        self.batch_size, self.eval_batch_size, self._epoch_steps = batch_size, eval_batch_size, epoch_steps
        self.groups = {}
        self._device = torch.device("cpu")
        self._ready = False

    @abstractmethod
    def load(self) -> None:
        """Read and tokenise; set `token_views`, `tokenizer`, `pad_id`, `num_classes` and `fingerprint`."""

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenise the data, once.

        Raises:
            DataError: If data are missing or damaged.
            ValueError: If a split is impossible.
        """
        if self._ready:
            return
        self.load()
        self.train_size = self.eval_size("train")
        self._pass_steps = -(-self.train_size // self.batch_size)
        self.steps_per_epoch = self._epoch_steps or self._pass_steps
        self._ready = True

    @property
    def device(self) -> torch.device:
        """Device of the tokens."""
        return self._device

    def to(self, device: torch.device | str) -> Self:
        """Move all tokens to a device and return the data set itself."""
        self._device, self._pass = torch.device(device), None
        self.token_views = {
            split: {
                view: TokenView(side.inputs.to(device), side.labels.to(device))
                for view, side in views.items()
            }
            for split, views in self.token_views.items()
        }
        return self

    @property
    def label_info(self) -> dict[str, Any]:
        """Vocabulary size, label space and hash of the tokenizer."""
        return {
            "num_classes": self.num_classes,
            "label_space": self.label_space,
            "tokenizer": tokenizer_hash(self.tokenizer),
        }

    @property
    def cache_key(self) -> dict[str, Any]:
        """Hash of the training tokens."""
        tokens = next(iter(self.token_views["train"].values()))
        digest = hashlib.sha256()
        for part in (tokens.inputs, tokens.labels):
            for numbers in (part.values, part.offsets):
                digest.update(numbers.cpu().numpy())
        return {"texts": digest.hexdigest()}

    @property
    def dataset_info(self) -> DatasetInfo:
        """Vocabulary size and number of samples, which have no classes."""
        return DatasetInfo(
            self.num_classes,
            torch.zeros(self.train_size, dtype=torch.int64),
            torch.arange(self.train_size),
        )

    def train_batch(self, epoch: int, step: int, views: Sequence[str] = ()) -> Batch:
        """Return the batch of one optimiser step with some views of its texts, by default the first one."""
        if epoch < 1 or not 0 <= step < self.steps_per_epoch:
            last = self.steps_per_epoch - 1
            raise ValueError(f"epochs count from 1 and steps from 0 to {last}, got {epoch} and {step}")
        number, start, stop = self._locate(epoch, step)
        return self._batch("train", self._order(number)[start:stop], views, epoch, step)

    def rows(self, epoch: int, start: int, stop: int) -> int:
        """Return the number of texts in the steps [start, stop) of an epoch."""
        positions = (self._locate(epoch, step) for step in range(start, stop))
        return sum(last - first for _, first, last in positions)

    def eval_size(self, split: str) -> int:
        """Return the number of texts of a split; ValueError for an unknown split."""
        if split not in self.token_views:
            raise ValueError(
                f"{self.name} has no split {split!r}; possible are {', '.join(self.token_views)}"
            )
        return len(next(iter(self.token_views[split].values())).inputs)

    def eval_batch(self, split: str, start: int, stop: int) -> Batch:
        """Return texts [start, stop) of a split in all its views."""
        index = torch.arange(start, min(stop, self.eval_size(split)), device=self.device)
        return self._batch(split, index, tuple(self.token_views[split]))

    def probe_batch(self) -> Batch:
        """Return the first two training texts in all views, to determine shapes."""
        return self.eval_batch("train", 0, 2)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _locate(self, epoch: int, step: int) -> tuple[int, int, int]:
        """Return the pass of a step (from 1) and its samples [start, stop) in the order of that pass."""
        total_steps = (epoch - 1) * self.steps_per_epoch + step
        number, within = divmod(total_steps, self._pass_steps)
        start = within * self.batch_size
        return number + 1, start, min(start + self.batch_size, self.train_size)

    def _order(self, number: int) -> Tensor:
        if self._pass is None or self._pass[0] != number:
            draw = generator(self.seed, "order", number)
            self._pass = number, torch.randperm(self.train_size, generator=draw).to(self.device)
        return self._pass[1]

    def _batch(self, split: str, index: Tensor, views: Sequence[str], epoch: int = 1, step: int = 0) -> Batch:
        token_views = self.token_views[split]
        texts = {view: self._pad(token_views[view], index) for view in views or tuple(token_views)[:1]}
        first = next(iter(texts.values()))
        sample = index[:, None].expand_as(first.labels)[first.valid]
        return Batch(first.ids, first.labels[first.valid], sample, epoch=epoch, step=step, texts=texts)

    def _pad(self, tokens: TokenView, index: Tensor) -> Tokens:
        ids, mask = tokens.inputs.pad(index, self.pad_id)
        labels, _ = tokens.labels.pad(index, IGNORED)
        return Tokens(ids, mask, labels)
