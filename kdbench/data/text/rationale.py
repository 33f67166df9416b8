"""Rationale distillation: questions, labels and a language model's rationales, for a student that does both tasks."""

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
from kdbench.data.text.rationale_files import ROWS, Row, read_split
from kdbench.data.text.text_data import Side, TextData
from kdbench.data.text.tokenizers import (
    PAD,
    encoded,
    pretrained_tokenizer,
    token_id,
    tokenizer_hash,
    trained_tokenizer,
)
from kdbench.models.language.pretrained import missing_package
from kdbench.utils.seeding import generator

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Labels = Literal["gold", "llm"]
Noise = Literal["exchange", "drop"]


class RationaleData(TextData):
    """One of the sets of Distilling step-by-step (Hsieh et al. 2023, arXiv:2305.02301).

    Views of a row: `predict` (prefix `predict: `, says the label), `explain` (prefix `explain: `, says the rationale)
    and `raw` (no prefix, says the label).

    path: see `read_split`. train_split: which of the files is trained on. validation: the share of it that is held out
    for selection, as the official loader cuts it (`datasets`' train_test_split, seed 0), where there is no valid split;
    0 for none. fraction: of what is left, drawn by subset_seed. label_source: `llm`, training labels are the language
    model's. rationale_noise: the share of training rationales that are exchanged with each other, or half of whose
    words are dropped, drawn by noise_seed.
    tokenizer: of a pretrained network (hub or folder); None: one of `vocabulary` tokens is trained on the training
    texts.
    max_input, max_target: tokens, the end included; max_answer: the most that is written at evaluation.
    quality_samples: how many test rationales are written and compared with the language model's at the end.
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
        _check_shares(validation, fraction, rationale_noise)
        if train_split not in ("train", "valid"):
            raise ValueError(f"dataset.train_split={train_split}; possible: train, valid")
        if name not in ROWS:
            raise ValueError(f"dataset.name={name}; possible: {', '.join(ROWS)}")
        for key, value, least in (
            *(("max_input", max_input, 2), ("max_target", max_target, 2), ("max_answer", max_answer, 1)),
            *(("vocabulary", vocabulary, 300), ("quality_samples", quality_samples, 0)),
        ):
            if value < least:
                raise ValueError(f"dataset.{key} must be at least {least}, got {value}")
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
        self.protocol = self._in_words()

    def load(self) -> None:
        """Read, cut and tokenise; the number of blank rationales is printed. ValueError where what scores rationales is
        not installed: better before a run than at its end."""
        if missing := [name for name in ("rouge_score", "sacrebleu") if find_spec(name) is None]:
            raise ValueError(str(missing_package(missing[0].replace("_", "-"))))
        read = {split: read_split(self.name, split, self._path) for split in (self._train_split, "test")}
        if missing := [split for split, rows in read.items() if rows is None]:
            raise DataError(self._missing(missing[0]))
        train, test = read[self._train_split] or [], read["test"] or []
        held_out = read_split(self.name, "valid", self._path) if self._train_split == "train" else None
        self.fingerprint = _fingerprint([train, held_out or [], test])
        if held_out is None and self._validation:
            train, held_out = _official_cut(train, self._validation)
        self.texts = {"train": self._as_told(train), "validation": held_out or [], "test": test}
        self.tokenizer = self._tokenizer(train)
        self.fingerprint += tokenizer_hash(self.tokenizer)
        self.num_classes, self.pad_id = self.tokenizer.get_vocab_size(), token_id(self.tokenizer, PAD)
        splits = dict.fromkeys(("train", *self.eval_splits, *self.final_splits))
        self.sides = {split: self._encoded(self.texts[split]) for split in splits}
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
                f"dataset.tokenizer={self._source}, but student.options.pretrained={source}: a network reads the "
                f"tokens that it was trained with"
            )

    def round_trip(self, text: str) -> str:
        """Return a text as the tokenizer gives it back: what a perfect student generates."""
        return self.decode(self.tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def generated(self) -> frozenset[int]:
        """The test rows whose rationales are written and compared at the end."""
        order = torch.randperm(len(self.texts["test"]), generator=generator(0, "quality", self.name))
        return frozenset(order[: self.quality_samples].tolist())

    @property
    def max_rationale(self) -> int:
        """The most that is written as a rationale."""
        return self._max_target - 1

    def _tokenizer(self, train: Sequence[Row]) -> Tokenizer:
        if self._source is not None:
            return pretrained_tokenizer(self._source)[0]
        prefixes = ["predict: ", "explain: "] * 100
        texts = [text for row in train for text in (row.input, row.label, row.rationale)]
        return trained_tokenizer([*prefixes, *texts], self._vocabulary)

    def _encoded(self, rows: Sequence[Row]) -> dict[str, Side]:
        def side(inputs: Sequence[str], says: Sequence[str]) -> Side:
            return Side(
                encoded(self.tokenizer, inputs, self._max_input),
                encoded(self.tokenizer, says, self._max_target),
            )

        labels = [row.label for row in rows]
        return {
            "predict": side([f"predict: {row.input}" for row in rows], labels),
            "explain": side([f"explain: {row.input}" for row in rows], [row.rationale for row in rows]),
            "raw": side([row.input for row in rows], labels),
        }

    def _as_told(self, rows: Sequence[Row]) -> list[Row]:
        """The training rows as the student is told them."""
        order = torch.randperm(len(rows), generator=generator(self._subset_seed, "fraction"))
        kept = sorted(order[: max(1, round(self._fraction * len(rows)))].tolist())
        told = [rows[number] for number in kept]
        if self._label_source == "llm":
            told = [replace(row, label=row.llm_label) for row in told]
        return disturbed(told, self._rationale_noise, self._noise, self._noise_seed)

    def _in_words(self) -> str:
        said = [f"{self._train_split} split"] if self._train_split != "train" else []
        said += [f"{100 * self._fraction:g} % of the training set"] if self._fraction < 1 else []
        said += ["labels of the language model"] if self._label_source == "llm" else []
        if self._rationale_noise:
            what = "exchanged" if self._noise == "exchange" else "with half of the words"
            said += [f"{100 * self._rationale_noise:g} % of rationales {what}"]
        return ", ".join(said)

    def _missing(self, split: str) -> str:
        hint = "; dataset.train_split=valid trains on its valid split" if "valid" in ROWS[self.name] else ""
        return f"{self.name} has no {split} split in {self._path or '$KDBENCH_DATA/dss'}{hint}"


def disturbed(rows: Sequence[Row], share: float, noise: Noise, seed: int) -> list[Row]:
    """The rows with `share` of their rationales exchanged among themselves (none keeps its own), or with half of
    their words dropped: which, and how, is drawn by `seed`."""
    draw = generator(seed, "rationale noise", noise)
    chosen = torch.randperm(len(rows), generator=draw)[: round(share * len(rows))].tolist()
    changed = list(rows)
    for here, there in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True):
        if noise == "exchange":
            text = rows[there].rationale
        else:
            words = rows[here].rationale.split()
            keep = torch.randperm(len(words), generator=draw)[: (len(words) + 1) // 2].sort().values.tolist()
            text = " ".join(words[place] for place in keep)
        changed[here] = replace(rows[here], rationale=text)
    return changed


def _official_cut(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows as the official loader cuts them."""
    from datasets import Dataset

    cut = Dataset.from_dict({"row": list(range(len(rows)))}).train_test_split(share, seed=0)
    kept, held_out = ([rows[number] for number in cut[part]["row"]] for part in ("train", "test"))
    return kept, held_out


def _fingerprint(splits: Sequence[Sequence[Row]]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        digest.update(f"{len(rows)}\0".encode())
        for row in rows:
            digest.update("\0".join((row.input, row.label, row.rationale, row.llm_label)).encode())
    return digest.hexdigest()


def _check_shares(validation: float, fraction: float, noise: float) -> None:
    for key, value, possible in (
        ("validation", validation, 0 <= validation < 1),
        ("fraction", fraction, 0 < fraction <= 1),
        ("rationale_noise", noise, 0 <= noise <= 1),
    ):
        if not possible:
            raise ValueError(f"dataset.{key} is a share of the rows, got {value}")
