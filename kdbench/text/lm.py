"""Data sets for language models: a prompt that is given, and a response of which every token is a row."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from kdbench.core import IGNORED, TASKS
from kdbench.data.images import DataError
from kdbench.data.parquet import read_rows
from kdbench.metrics import Meter
from kdbench.results import digest
from kdbench.seeding import generator
from kdbench.text.bpe import BOS, EOS, PAD, SEP, BytePairs, byte_pairs
from kdbench.text.causal import CONTEXT, causal_lm, check_causal
from kdbench.text.data import Side, TextData
from kdbench.text.ragged import Ragged
from kdbench.text.scores import TokenScores

Pair = tuple[str, str]
"""A prompt and its response."""

Read = Callable[[], Mapping[str, Sequence[Pair]]]
"""The texts by split, `train` and `test`."""


class LanguageOptions(TypedDict, total=False):
    """What all data sets for language models share."""

    seed: int
    batch_size: int
    vocabulary: int
    prompt: bool
    max_prompt: int
    max_length: int
    validation: int
    validation_seed: int
    eval_batch_size: int
    epoch_steps: int | None


class LanguageData(TextData):
    """Prompts and responses for a causal language model, in a tokenizer trained on the training texts.

    A sequence is the beginning mark, the prompt, a separator, the response and the end mark; rows are the tokens of the
    response and the end. prompt: False leaves the prompts out. max_prompt and max_length cut, in tokens. validation: so
    many training texts are held out, in a draw of their own, for choosing the best epoch; test is scored at the end.
    """

    task = TASKS["lm"]

    def __init__(
        self,
        read: Read,
        *,
        name: str,
        seed: int,
        batch_size: int,
        vocabulary: int = 2048,
        prompt: bool = True,
        max_prompt: int = 96,
        max_length: int = 192,
        validation: int = 500,
        validation_seed: int = 0,
        eval_batch_size: int = 32,
        epoch_steps: int | None = None,
    ) -> None:
        super().__init__(name, seed, batch_size, eval_batch_size, epoch_steps)
        _check_lengths(max_prompt, max_length, validation)
        self._read, self.label_space = read, name
        self.vocabulary, self.prompt = vocabulary, prompt
        self.max_prompt, self.max_length = max_prompt, max_length
        self.validation, self.validation_seed = validation, validation_seed
        self.eval_splits = ("validation",) if validation else ("test",)
        self.final_splits = ("test",) if validation else ()

    def load(self) -> None:
        """Read the texts, cut the validation part, train the tokenizer or find it, and tokenise."""
        texts = dict(self._read())
        self.fingerprint = digest({split: [list(pair) for pair in pairs] for split, pairs in texts.items()})
        if self.validation:
            texts |= self._cut(texts["train"])
        words = [text for pair in texts["train"] for text in (pair if self.prompt else pair[1:])]
        self.tokenizer = byte_pairs(words, self.vocabulary)
        self.pad_id, self.num_classes = PAD, self.vocabulary
        self.sides = {split: {"text": self._side(pairs)} for split, pairs in texts.items()}

    def _cut(self, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
        if self.validation >= len(pairs):
            raise ValueError(
                f"dataset.validation={self.validation} leaves nothing of {len(pairs)} training texts"
            )
        order = torch.randperm(len(pairs), generator=generator(self.validation_seed, "validation")).tolist()
        held_out, kept = sorted(order[: self.validation]), sorted(order[self.validation :])
        return {"validation": [pairs[i] for i in held_out], "train": [pairs[i] for i in kept]}

    def _side(self, pairs: Sequence[Pair]) -> Side:
        responses = self.tokenizer.encode([response for _, response in pairs])
        prompts = self.tokenizer.encode([prompt for prompt, _ in pairs]) if self.prompt else [[]] * len(pairs)
        inputs, labels = [], []
        for prompt, response in zip(prompts, responses, strict=True):
            given = [BOS, *prompt[: self.max_prompt], SEP] if self.prompt else [BOS]
            ids = [*given, *response, EOS][: self.max_length + 1]
            inputs.append(ids[:-1])
            labels.append([IGNORED] * (len(given) - 1) + ids[len(given) :])
        return Side(Ragged.of(inputs), Ragged.of(labels))

    @property
    def about(self) -> dict[str, Any]:
        """The size of the vocabulary, and whose words they are."""
        return {
            "num_classes": self.num_classes,
            "label_space": self.label_space,
            "tokenizer": self.tokenizer.hash,
        }

    def meter(self, split: str) -> Meter:
        """Loss per token, perplexity, the share of tokens foretold, and agreement with the teacher."""
        return TokenScores()

    def check_network(self, name: str) -> None:
        """One of kdbench.text.causal."""
        check_causal(name)

    def network(self, name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
        """A causal language model of this vocabulary."""
        return causal_lm(name, self.num_classes, **(options or {}))


def _check_lengths(max_prompt: int, max_length: int, validation: int) -> None:
    if max_prompt < 1:
        raise ValueError(f"dataset.max_prompt must be at least 1, got {max_prompt}")
    if not max_prompt + 2 < max_length <= CONTEXT:
        raise ValueError(
            f"dataset.max_length must be larger than max_prompt + 2 = {max_prompt + 2} and at most {CONTEXT}, got "
            f"{max_length}"
        )
    if validation < 0:
        raise ValueError(f"dataset.validation must not be negative, got {validation}")


def cqa_lm(*, path: str | None = None, **options: Unpack[LanguageOptions]) -> LanguageData:
    """CommonsenseQA's questions with the rationales that PaLM 540B wrote to them (Hsieh et al. 2023)."""
    return LanguageData(lambda: rationales(path), name="cqa_lm", **options)


def rationales(path: str | None, data_set: str = "cqa") -> dict[str, list[Pair]]:
    """Questions and rationales by split; rows without a rationale are left out. DataError says where was looked."""
    home = os.environ.get("KDBENCH_DATA")
    folder = Path(path) if path else Path(home) / "dss" / data_set if home else None
    found = {}
    for split in ("train", "test"):
        files = sorted(folder.glob(f"{split}-*.parquet")) if folder else []
        if not files:
            looked = folder or "dataset.path or $KDBENCH_DATA (neither is set)"
            raise DataError(
                f"no {split}-*.parquet of {data_set} in {looked}: "
                f"give dataset.path=FOLDER, or KDBENCH_DATA with dss/{data_set} in it"
            )
        table = read_rows(files, ("input", "rationale"))
        rows = zip(table.column("input").to_pylist(), table.column("rationale").to_pylist(), strict=True)
        found[split] = [(prompt, text.strip()) for prompt, text in rows if text and text.strip()]
    return found


def texts_of(tokenizer: BytePairs, side: Side, index: Sequence[int]) -> list[str]:
    """What people can read of these samples."""
    ids, mask = side.inputs.padded(torch.tensor(list(index)), PAD)
    return tokenizer.decode([row[seen].tolist() for row, seen in zip(ids, mask, strict=True)])
