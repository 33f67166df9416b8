"""The questions and rationales of Distilling step-by-step, for a causal language model to continue."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdbench.data.images.image_io import DataError
from kdbench.data.text.causal import CausalData
from kdbench.data.text.rationale_files import read_split
from kdbench.data.text.text_data import Side
from kdbench.data.text.tokenizers import encoded
from kdbench.utils.seeding import generator

Pair = tuple[str, str]
"""A prompt and its response."""

SETS = ("cqa", "svamp")
"""Those of which the training rationales are at hand."""


class LanguageData(CausalData):
    """Questions and the rationales of a large language model.

    A sequence is the mark (the tokenizer's end of a text), the prompt, the mark, the response and the mark; rows are
    the tokens of the response and its end. Rows of the files without a rationale are left out.

    name: one of the sets that have a train split; path: see `rationale_files.read_split`. prompt: False leaves
    the prompts out. tokenizer, vocabulary: see `CausalData`. max_prompt, max_response: tokens, the mark included.
    validation: the share of the training texts that is held out, in a draw by validation_seed, for choosing the best
    epoch; test is then scored at the end alone.
    """

    def __init__(
        self,
        *,
        name: str,
        seed: int,
        batch_size: int,
        path: str | None = None,
        prompt: bool = True,
        tokenizer: str | None = None,
        vocabulary: int = 2048,
        max_prompt: int = 96,
        max_response: int = 96,
        validation: float = 0.1,
        validation_seed: int = 0,
        eval_batch_size: int = 32,
        epoch_steps: int | None = None,
    ) -> None:
        super().__init__(
            f"{name}_lm",
            seed,
            batch_size,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            max_prompt=max_prompt,
            max_response=max_response,
            eval_batch_size=eval_batch_size,
            epoch_steps=epoch_steps,
        )
        if name not in SETS:
            raise ValueError(f"dataset.name={name}; possible: {', '.join(SETS)}")
        if not 0 <= validation < 1:
            raise ValueError(f"dataset.validation is a share of the training texts, got {validation}")
        self._set, self._path, self._prompt = name, path, prompt
        self._validation, self._validation_seed = validation, validation_seed
        self.eval_splits = ("validation",) if validation else ("test",)
        self.final_splits = ("test",) if validation else ()

    def load(self) -> None:
        """Read the texts, cut the validation part, train the tokenizer or find it, and tokenise."""
        self.texts = {split: self._read(split) for split in ("train", "test")}
        content = {split: [list(pair) for pair in pairs] for split, pairs in self.texts.items()}
        if self._validation:
            self.texts |= self._cut(self.texts["train"])
        self.choose_words([text for pair in self.texts["train"] for text in pair])
        self.fingerprint = self.fingerprint_of(content)
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
        prompts = encoded(self.tokenizer, [prompt for prompt, _ in pairs], self._max_prompt, self.end).rows()
        responses = encoded(self.tokenizer, [text for _, text in pairs], self.max_response, self.end)
        given = [[self.mark, *(prompt if self._prompt else ())] for prompt in prompts]
        return self.side_of(given, responses.rows())
