"""Rationale distillation: questions with labels and a language model's rationales, for multi-task students."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch

from kdbench.data.images.image_io import DataError
from kdbench.data.text.rationale_files import ROWS, RationaleExample, read_split
from kdbench.data.text.text_data import TextData, TokenView
from kdbench.data.text.tokenizers import (
    PAD,
    encode,
    load_tokenizer,
    token_id,
    tokenizer_hash,
    train_tokenizer,
)
from kdbench.models.language.pretrained import missing_package
from kdbench.utils.seeding import generator
from kdbench.utils.validation import check_at_least, check_choice, check_fraction, check_non_negative

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Labels = Literal["gold", "llm"]
Noise = Literal["exchange", "drop"]


class RationaleData(TextData):
    """A data set of Distilling step-by-step (Hsieh et al. 2023, arXiv:2305.02301).

    Views of a row: `predict` (prefix `predict: `, target: the label), `explain` (prefix `explain: `, target: the
    rationale) and `raw` (no prefix, target: the label).

    Args:
        name: Data set, a key of `rationale_files.ROWS`.
        seed: Seed of the order.
        batch_size: Texts of a training step.
        path: Folder of the files; see `rationale_files.read_split`.
        train_split: Split for training, `train` or `valid`.
        validation: Fraction of it for selection if there is no valid split, split off as in the official loader
            (`train_test_split` of `datasets`, seed 0); 0 for none.
        fraction: Fraction of the remaining rows for training, in (0, 1].
        subset_seed: Seed of that fraction.
        label_source: Training labels: `gold`, or `llm` for those of the language model.
        rationale_noise: Fraction of the training rationales with noise.
        noise: Kind of noise; see `add_noise`.
        noise_seed: Seed of the noise.
        tokenizer: Hub name or folder of a pretrained network's tokenizer; None trains one on the training texts.
        vocabulary: Number of tokens of a trained tokenizer.
        max_input: Maximum length of inputs, in tokens, including the end.
        max_target: Maximum length of targets, in tokens, including the end.
        max_answer: Maximum length of generated labels, in tokens.
        quality_samples: Number of test rows whose rationales are generated and scored at the end.
        eval_batch_size: Texts of an evaluation step.
        epoch_steps: Steps of an epoch; None for one pass.

    Raises:
        ValueError: For invalid options.
    """

    task = "rationale"

    def __init__(
        self,
        *,
        name: str,
        seed: int,
        batch_size: int,
        path: str | None = None,
        train_split: str = "train",
        validation: float = 0.1,
        fraction: float = 1.0,
        subset_seed: int = 0,
        label_source: Labels = "gold",
        rationale_noise: float = 0.0,
        noise: Noise = "exchange",
        noise_seed: int = 0,
        tokenizer: str | None = None,
        vocabulary: int = 2048,
        max_input: int = 1024,
        max_target: int = 256,
        max_answer: int = 63,
        quality_samples: int = 200,
        eval_batch_size: int = 64,
        epoch_steps: int | None = None,
    ) -> None:
        super().__init__(name, seed, batch_size, eval_batch_size, epoch_steps)
        check_fraction("dataset", closed="left", validation=validation)
        check_fraction("dataset", closed="right", fraction=fraction)
        check_fraction("dataset", rationale_noise=rationale_noise)
        check_choice("dataset", ("train", "valid"), train_split=train_split)
        check_choice("dataset", ROWS, name=name)
        check_at_least("dataset", 2, max_input=max_input, max_target=max_target)
        check_at_least("dataset", 1, max_answer=max_answer)
        check_at_least("dataset", 300, vocabulary=vocabulary)
        check_non_negative("dataset", quality_samples=quality_samples)
        self.label_space = name
        self.max_answer, self.quality_samples = max_answer, quality_samples
        self._path, self._train_split, self._validation = path, train_split, validation
        self._fraction, self._subset_seed, self._label_source = fraction, subset_seed, label_source
        self._rationale_noise, self._noise, self._noise_seed = rationale_noise, noise, noise_seed
        self._source, self._vocabulary = tokenizer, vocabulary
        self._max_input, self._max_target = max_input, max_target
        has_valid = "valid" in ROWS[name] and train_split == "train"
        self.eval_splits = ("validation",) if validation or has_valid else ("test",)
        self.final_splits = ("test",) if validation or has_valid else ()
        self.protocol = self._describe()

    def load(self) -> None:
        """Read, split and tokenise; print the number of blank rationales.

        Raises:
            DataError: If a split is missing or damaged.
            ValueError: If packages are missing that score rationales, which the end of a run needs.
        """
        if missing := [name for name in ("rouge_score", "sacrebleu") if find_spec(name) is None]:
            raise ValueError(str(missing_package(missing[0].replace("_", "-"))))
        rows_of = {split: read_split(self.name, split, self._path) for split in (self._train_split, "test")}
        if missing := [split for split, rows in rows_of.items() if rows is None]:
            raise DataError(self._missing_message(missing[0]))
        train, test = rows_of[self._train_split] or [], rows_of["test"] or []
        validation = read_split(self.name, "valid", self._path) if self._train_split == "train" else None
        self.fingerprint = _fingerprint([train, validation or [], test])
        if validation is None and self._validation:
            train, validation = _official_split(train, self._validation)
        self.texts = {"train": self._training_rows(train), "validation": validation or [], "test": test}
        self.tokenizer = self._make_tokenizer(train)
        self.fingerprint += tokenizer_hash(self.tokenizer)
        self.num_classes, self.pad_id = self.tokenizer.get_vocab_size(), token_id(self.tokenizer, PAD)
        splits = dict.fromkeys(("train", *self.eval_splits, *self.final_splits))
        self.token_views = {split: self._tokenise(self.texts[split]) for split in splits}
        blank = sum(row.is_blank for row in self.texts["train"])
        if blank:
            print(
                f"{self.name}: {blank} of {len(self.texts['train'])} training rows have a blank rationale or label",
                file=sys.stderr,
            )

    def check_tokenizer(self, source: str | None) -> None:
        """Raise ValueError unless a network pretrained from this source reads the tokens of the data."""
        if source != self._source:
            raise ValueError(
                f"dataset.tokenizer={self._source}, but student.options.pretrained={source}; set both to the same, "
                f"because a network needs the tokens that it was trained with"
            )

    def round_trip(self, text: str) -> str:
        """Encode and decode a text, which is what a perfect student generates."""
        return self.decode(self.tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def explained_rows(self) -> frozenset[int]:
        """Test rows whose rationales are generated and scored at the end."""
        order = torch.randperm(len(self.texts["test"]), generator=generator(0, "quality", self.name))
        return frozenset(order[: self.quality_samples].tolist())

    @property
    def max_rationale(self) -> int:
        """Maximum length of generated rationales, in tokens."""
        return self._max_target - 1

    def _make_tokenizer(self, train: Sequence[RationaleExample]) -> Tokenizer:
        if self._source is not None:
            return load_tokenizer(self._source)[0]
        prefixes = ["predict: ", "explain: "] * 100
        texts = [text for row in train for text in (row.input, row.label, row.rationale)]
        return train_tokenizer([*prefixes, *texts], self._vocabulary)

    def _tokenise(self, rows: Sequence[RationaleExample]) -> dict[str, TokenView]:
        def view(inputs: Sequence[str], targets: Sequence[str]) -> TokenView:
            return TokenView(
                encode(self.tokenizer, inputs, self._max_input),
                encode(self.tokenizer, targets, self._max_target),
            )

        labels = [row.label for row in rows]
        return {
            "predict": view([f"predict: {row.input}" for row in rows], labels),
            "explain": view([f"explain: {row.input}" for row in rows], [row.rationale for row in rows]),
            "raw": view([row.input for row in rows], labels),
        }

    def _training_rows(self, rows: Sequence[RationaleExample]) -> list[RationaleExample]:
        """Apply the options for fraction, labels and noise to the training rows."""
        order = torch.randperm(len(rows), generator=generator(self._subset_seed, "fraction"))
        selected = sorted(order[: max(1, round(self._fraction * len(rows)))].tolist())
        examples = [rows[number] for number in selected]
        if self._label_source == "llm":
            examples = [replace(row, label=row.llm_label) for row in examples]
        return add_noise(examples, self._rationale_noise, self._noise, self._noise_seed)

    def _describe(self) -> str:
        parts = [f"{self._train_split} split"] if self._train_split != "train" else []
        parts += [f"{100 * self._fraction:g} % of the training set"] if self._fraction < 1 else []
        parts += ["labels of the language model"] if self._label_source == "llm" else []
        if self._rationale_noise:
            what = "exchanged" if self._noise == "exchange" else "with half of the words"
            parts += [f"{100 * self._rationale_noise:g} % of rationales {what}"]
        return ", ".join(parts)

    def _missing_message(self, split: str) -> str:
        hint = (
            "; use dataset.train_split=valid to train on its valid split"
            if "valid" in ROWS[self.name]
            else ""
        )
        return f"{self.name} has no {split} split in {self._path or '$KDBENCH_DATA/dss'}{hint}"


def add_noise(
    rows: Sequence[RationaleExample], share: float, noise: Noise, seed: int
) -> list[RationaleExample]:
    """Add noise to the rationales of some rows.

    Args:
        rows: Training rows.
        share: Fraction of the rows that get noise.
        noise: `exchange` permutes their rationales, so that none keeps its own; `drop` removes half of their words.
        seed: Seed of the draws.

    Returns:
        All rows in their order.
    """
    draw = generator(seed, "rationale noise", noise)
    chosen = torch.randperm(len(rows), generator=draw)[: round(share * len(rows))].tolist()
    noisy = list(rows)
    for row, source in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        if noise == "exchange":
            text = rows[source].rationale
        else:
            words = rows[row].rationale.split()
            keep = torch.randperm(len(words), generator=draw)[: (len(words) + 1) // 2].sort().values.tolist()
            text = " ".join(words[position] for position in keep)
        noisy[row] = replace(rows[row], rationale=text)
    return noisy


def _official_split(
    rows: Sequence[RationaleExample], share: float
) -> tuple[list[RationaleExample], list[RationaleExample]]:
    """Return training and validation rows as the official loader splits them."""
    from datasets import Dataset

    parts = Dataset.from_dict({"row": list(range(len(rows)))}).train_test_split(share, seed=0)
    train, validation = ([rows[number] for number in parts[part]["row"]] for part in ("train", "test"))
    return train, validation


def _fingerprint(splits: Sequence[Sequence[RationaleExample]]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        digest.update(f"{len(rows)}\0".encode())
        for row in rows:
            digest.update("\0".join((row.input, row.label, row.rationale, row.llm_label)).encode())
    return digest.hexdigest()
