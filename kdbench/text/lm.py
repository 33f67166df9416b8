"""Data sets for language models: a prompt that is given, and a response of which every token is a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdbench.core import IGNORED
from kdbench.data.images import DataError
from kdbench.metrics import Meter
from kdbench.results import digest
from kdbench.seeding import generator
from kdbench.tasks import TASKS
from kdbench.text.causal import CONTEXT, causal_lm, check_causal
from kdbench.text.data import Side, TextData
from kdbench.text.ragged import Ragged
from kdbench.text.sources import read_split
from kdbench.text.token_scores import TokenScores
from kdbench.text.tokens import EOS, PAD, encoded, tokenizer_hash, trained_tokenizer

if TYPE_CHECKING:
    pass

Pair = tuple[str, str]
"""A prompt and its response."""


class LanguageData(TextData):
    """Questions and the rationales of a large language model, for a causal language model to continue.

    A sequence is the mark, the prompt, the mark, the response and the mark (`</s>`); rows are the tokens of the
    response and its end. Rows of the files without a rationale are left out.

    name: one of the sets that have a train split; path: see `kdbench.text.sources.read_split`. prompt: False leaves
    the prompts out. vocabulary: of the tokenizer, which is trained on the training texts. max_prompt, max_response:
    tokens, the mark included. validation: the share of the training texts that is held out, in a draw by
    validation_seed, for choosing the best epoch; test is then scored at the end alone.
    """

    task = TASKS["lm"]

    def __init__(
        self,
        *,
        name: str,
        seed: int,
        batch_size: int,
        path: str | None = None,
        prompt: bool = True,
        vocabulary: int = 2048,
        max_prompt: int = 96,
        max_response: int = 96,
        validation: float = 0.1,
        validation_seed: int = 0,
        eval_batch_size: int = 32,
        epoch_steps: int | None = None,
    ) -> None:
        super().__init__(f"{name}_lm", seed, batch_size, eval_batch_size, epoch_steps)
        if name not in SETS:
            raise ValueError(f"dataset.name={name}; possible: {', '.join(SETS)}")
        if not 0 <= validation < 1:
            raise ValueError(f"dataset.validation is a share of the training texts, got {validation}")
        for key, value, least in (
            *(("max_prompt", max_prompt, 2), ("max_response", max_response, 2)),
            ("vocabulary", vocabulary, 300),
        ):
            if value < least:
                raise ValueError(f"dataset.{key} must be at least {least}, got {value}")
        if max_prompt + max_response > CONTEXT:
            raise ValueError(
                f"dataset.max_prompt + dataset.max_response is {max_prompt + max_response}; a network sees {CONTEXT}"
            )
        self._set, self._path, self._prompt = name, path, prompt
        self.label_space = self.name
        self._vocabulary, self._max_prompt, self.max_response = vocabulary, max_prompt, max_response
        self._validation, self._validation_seed = validation, validation_seed
        self.eval_splits = ("validation",) if validation else ("test",)
        self.final_splits = ("test",) if validation else ()

    def load(self) -> None:
        """Read the texts, cut the validation part, train the tokenizer or find it, and tokenise."""
        self.texts = {split: self._read(split) for split in ("train", "test")}
        content = {split: [list(pair) for pair in pairs] for split, pairs in self.texts.items()}
        if self._validation:
            self.texts |= self._cut(self.texts["train"])
        words = [text for pair in self.texts["train"] for text in pair]
        self.tokenizer = trained_tokenizer(words, self._vocabulary)
        self.fingerprint = digest([content, tokenizer_hash(self.tokenizer)])
        self.num_classes = self.tokenizer.get_vocab_size()
        vocabulary = self.tokenizer.get_vocab()
        self.pad_id, self.mark = vocabulary[PAD], vocabulary[EOS]
        self.sides = {split: {"text": self._side(pairs)} for split, pairs in self.texts.items()}

    def _read(self, split: str) -> list[Pair]:
        rows = read_split(self._set, split, self._path)
        if rows is None:
            where = self._path or f"$KDBENCH_DATA/dss/{self._set}"
            raise DataError(f"{self._set} has no {split} split in {where}; dataset=svamp_lm is always there")
        return [(row.input, row.rationale.strip()) for row in rows if row.rationale.strip()]

    def _cut(self, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
        size = max(1, round(self._validation * len(pairs)))
        order = torch.randperm(len(pairs), generator=generator(self._validation_seed, "validation")).tolist()
        held_out, kept = sorted(order[:size]), sorted(order[size:])
        return {"validation": [pairs[i] for i in held_out], "train": [pairs[i] for i in kept]}

    def _side(self, pairs: Sequence[Pair]) -> Side:
        prompts = encoded(self.tokenizer, [prompt for prompt, _ in pairs], self._max_prompt).rows()
        responses = encoded(self.tokenizer, [response for _, response in pairs], self.max_response).rows()
        return self.side_of(prompts, responses)

    def side_of(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Side:
        """Sequences of prompts and responses, each with the mark at its end, and the token after each position."""
        inputs, labels = [], []
        for prompt, response in zip(prompts, responses, strict=True):
            given = [self.mark, *(prompt if self._prompt else ())]
            inputs.append([*given, *response[:-1]])
            labels.append([IGNORED] * (len(given) - 1) + list(response))
        return Side(Ragged.of(inputs), Ragged.of(labels))

    @property
    def limits(self) -> tuple[int, int]:
        """The mark, and the most tokens of a response."""
        return self.mark, self.max_response

    def meter(self, split: str) -> Meter:
        """Loss per token, perplexity, the share of tokens foretold, and agreement with the teacher."""
        return TokenScores()

    def check_network(self, name: str) -> None:
        """One of `kdbench.text.causal`."""
        check_causal(name)

    def network(self, name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
        """A causal language model of this vocabulary."""
        return causal_lm(name, self.num_classes, **(options or {}))


SETS = ("cqa", "svamp")
"""Those of which the training rationales are at hand."""
