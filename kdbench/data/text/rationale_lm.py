"""Questions and rationales of Distilling step-by-step, for causal language models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdbench.data.images.image_io import DataError
from kdbench.data.text.causal import CausalData
from kdbench.data.text.rationale_files import read_split
from kdbench.data.text.text_data import TokenView
from kdbench.data.text.tokenizers import encode
from kdbench.utils.seeding import generator
from kdbench.utils.validation import check_choice, check_fraction

Pair = tuple[str, str]
"""Prompt and response."""

SETS = ("cqa", "svamp")
"""Data sets whose training rationales are available."""


class LanguageData(CausalData):
    """Questions and rationales of a large language model.

    A sequence is the end token, the prompt, the end token, the response and the end token. The rows are the tokens of
    the response and its end. Questions without a rationale are left out.

    Args:
        name: One of `SETS`.
        seed: Seed of the order.
        batch_size: Texts of a training step.
        path: Folder of the files; see `rationale_files.read_split`.
        prompt: Whether sequences include the prompts.
        tokenizer: See `CausalData`.
        vocabulary: See `CausalData`.
        max_prompt: Maximum length of prompts, in tokens, including the end token.
        max_response: Maximum length of responses, in tokens, including the end token.
        validation: Fraction of the training texts for selection of the best epoch; the test set is then scored only
            at the end.
        validation_seed: Seed of the validation part.
        eval_batch_size: Texts of an evaluation step.
        epoch_steps: Steps of an epoch; None for one pass.

    Raises:
        ValueError: For invalid options.
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
        check_choice("dataset", SETS, name=name)
        check_fraction("dataset", closed="left", validation=validation)
        self._set, self._path, self._prompt = name, path, prompt
        self._validation, self._validation_seed = validation, validation_seed
        self.eval_splits = ("validation",) if validation else ("test",)
        self.final_splits = ("test",) if validation else ()

    def load(self) -> None:
        """Read the texts, split off the validation part, load or train the tokenizer, and tokenise."""
        self.texts = {split: self._read(split) for split in ("train", "test")}
        content = {split: [list(pair) for pair in pairs] for split, pairs in self.texts.items()}
        if self._validation:
            self.texts |= self._split(self.texts["train"])
        self.set_tokenizer([text for pair in self.texts["train"] for text in pair])
        self.fingerprint = self.fingerprint_of(content)
        self.token_views = {split: {"text": self._tokenise(pairs)} for split, pairs in self.texts.items()}

    def _read(self, split: str) -> list[Pair]:
        rows = read_split(self._set, split, self._path)
        if rows is None:
            where = self._path or f"$KDBENCH_DATA/dss/{self._set}"
            raise DataError(f"{self._set} has no {split} split in {where}; dataset=svamp_lm needs no files")
        return [(row.input, row.rationale.strip()) for row in rows if row.rationale.strip()]

    def _split(self, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
        size = max(1, round(self._validation * len(pairs)))
        order = torch.randperm(len(pairs), generator=generator(self._validation_seed, "validation")).tolist()
        validation, training = sorted(order[:size]), sorted(order[size:])
        return {"validation": [pairs[i] for i in validation], "train": [pairs[i] for i in training]}

    def _tokenise(self, pairs: Sequence[Pair]) -> TokenView:
        prompts = encode(
            self.tokenizer, [prompt for prompt, _ in pairs], self._max_prompt, self.end_token
        ).rows()
        responses = encode(self.tokenizer, [text for _, text in pairs], self.max_response, self.end_token)
        starts = [[self.end_id, *(prompt if self._prompt else ())] for prompt in prompts]
        return self.join(starts, responses.rows())
