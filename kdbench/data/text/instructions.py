"""Instructions and their answers, from files of one JSON object a line, as MiniLLM and what follows it have them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdbench.data.images.image_io import DataError
from kdbench.data.text.causal import CausalData
from kdbench.data.text.text_data import Side
from kdbench.data.text.tokenizers import kept, texts_hash, tokenizer_hash

# the wording is Alpaca's (Taori et al. 2023), which Dolly, Self-Instruct and the others are put in
_TASK = "Below is an instruction that describes a task"
_ASK = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
_INPUT = "### Input:\n{input}\n\n"
ALONE = f"{_TASK}. {_ASK}### Response:\n"
WITH_INPUT = f"{_TASK}, paired with an input that provides further context. {_ASK}{_INPUT}### Response:\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a network is given, and the answers that are right; the first one is learned from."""

    prompt: str
    answers: tuple[str, ...]


class InstructionData(CausalData):
    """Instructions to learn from, and sets of instructions to be scored on, by ROUGE-L of what is written to them.

    A sequence is the prompt, the answer and the tokenizer's end of a text, tokenised as one and cut at max_prompt +
    max_response tokens, a prompt at max_prompt; rows are the tokens of the answer and its end.

    name: of the data set, and of the test set of that name; path: the folder of the files, None for $KDBENCH_DATA/name.
    train: a file of it, whose first `validation` rows are held out for choosing the best epoch (0: none are); test: the
    file of the first test set; further: files of other test sets, by name. A row has `instruction` and may have
    `input`, or it has the whole `prompt`; `output` is an answer, or a list of them.
    draws: how often each test prompt is answered, at `temperature` (0: the likeliest words, once), at most max_response
    tokens; the held-out rows are answered once. tokenizer, vocabulary: see `CausalData`.
    """

    task = "instructions"
    uses_own_name = True

    def __init__(
        self,
        *,
        name: str,
        seed: int,
        batch_size: int,
        train: str,
        test: str,
        path: str | None = None,
        further: Mapping[str, str] | None = None,
        validation: int = 1000,
        draws: int = 5,
        temperature: float = 1.0,
        tokenizer: str | None = None,
        vocabulary: int = 2048,
        max_prompt: int = 256,
        max_response: int = 256,
        eval_batch_size: int = 8,
        epoch_steps: int | None = None,
    ) -> None:
        super().__init__(
            name,
            seed,
            batch_size,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            max_prompt=max_prompt,
            max_response=max_response,
            eval_batch_size=eval_batch_size,
            epoch_steps=epoch_steps,
        )
        for key, value, least in (("validation", validation, 0), ("draws", draws, 1)):
            if value < least:
                raise ValueError(f"dataset.{key} must be at least {least}, got {value}")
        if temperature < 0:
            raise ValueError(f"dataset.temperature must not be negative, got {temperature}")
        files = dict(further or {})
        for other in files:
            if other in ("test", name) or other.startswith(("train", "validation")) or "/" in other:
                raise ValueError(
                    f"dataset.further.{other}: that is what a split is called; give another name"
                )
        self._path, self._train, self._validation = path, train, validation
        self._tests = {"test": test, **files}
        self.draws, self.temperature = (draws if temperature else 1), temperature
        self.eval_splits = ("validation",) if validation else ("test",)
        self.final_splits = tuple(name for name in self._tests if name not in self.eval_splits)

    def load(self) -> None:
        """Read the files, hold out the validation part, find the tokenizer or train it, and tokenise."""
        folder = Path(self._path) if self._path else Path(os.environ.get("KDBENCH_DATA", "")) / self.name
        rows = read_asked(folder / self._train)
        if len(rows) <= self._validation:
            raise ValueError(
                f"dataset.validation={self._validation} of {len(rows)} rows in {folder / self._train} leaves none"
            )
        self.texts = {"train": rows[self._validation :], "validation": rows[: self._validation]}
        self.texts |= {split: read_asked(folder / file) for split, file in self._tests.items()}
        self.choose_words([text for row in self.texts["train"] for text in (row.prompt, *row.answers[:1])])
        content = {
            split: [list(asdict(row).values()) for row in found] for split, found in self.texts.items()
        }
        self.fingerprint = self.fingerprint_of(content)
        splits = ("train", *self.eval_splits, *self.final_splits)
        self.sides = {split: {"text": self._side(self.texts[split])} for split in dict.fromkeys(splits)}

    def _side(self, rows: Sequence[Asked]) -> Side:
        longest = self._max_prompt + self.max_response
        prompts, wholes = [row.prompt for row in rows], [row.prompt + row.answers[0] for row in rows]

        def make() -> list[list[int]]:
            pairs = zip(self._tokens_of(prompts), self._tokens_of(wholes), strict=True)
            rows = []
            for prompt, whole in pairs:
                given = prompt[: self._max_prompt]
                rows += [given, [*whole[len(prompt) :], self.mark][: longest - len(given)]]
            return rows

        what = [tokenizer_hash(self.tokenizer), self.mark, self._max_prompt, longest]
        rows_of_both = kept([*what, texts_hash(prompts), texts_hash(wholes)], make).rows()
        return self.side_of(rows_of_both[::2], rows_of_both[1::2])

    def _tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        return [one.ids for one in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def read_asked(file: Path) -> list[Asked]:
    """The rows of a file in their order; DataError where it is missing or broken, with the line."""
    if not file.is_file():
        raise DataError(
            f"no {file}: give dataset.path=FOLDER and the names of its files (dataset.train, dataset.test, "
            f"dataset.further.NAME), each with a JSON object a line: instruction, input (may be empty), output"
        )
    rows = []
    for number, line in enumerate(file.read_text().split("\n"), 1):
        if line.strip():
            try:
                rows.append(_asked(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file}, line {number}: no instruction and output ({error!r})") from error
    if not rows:
        raise DataError(f"{file} is empty")
    return rows


def _asked(record: Mapping[str, Any]) -> Asked:
    output = record["output"]
    answers = tuple(map(str, output if isinstance(output, list) else [output]))
    if not answers:
        raise ValueError("output is an empty list")
    if "instruction" not in record:
        if not record["prompt"]:
            raise ValueError("prompt is empty")
        return Asked(str(record["prompt"]), answers)
    form = WITH_INPUT if record.get("input") else ALONE
    return Asked(form.format(instruction=record["instruction"], input=record.get("input")), answers)
