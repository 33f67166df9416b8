"""Instructions and responses from JSON-lines files in the format of MiniLLM and its successors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdbench.data.images.image_io import DataError
from kdbench.data.text.causal import CausalData
from kdbench.data.text.text_data import TokenView
from kdbench.data.text.tokenizers import cached_tokens, texts_hash, tokenizer_hash
from kdbench.utils.validation import check_at_least, check_non_negative

# Alpaca's prompt (Taori et al. 2023), which Dolly, Self-Instruct and others use
_TASK = "Below is an instruction that describes a task"
_ASK = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
_INPUT = "### Input:\n{input}\n\n"
ALONE = f"{_TASK}. {_ASK}### Response:\n"
WITH_INPUT = f"{_TASK}, paired with an input that provides further context. {_ASK}{_INPUT}### Response:\n"


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt and its reference answers.

    Attributes:
        prompt: Text that the network continues.
        answers: Correct answers; the first one is the training target.
    """

    prompt: str
    answers: tuple[str, ...]


class InstructionData(CausalData):
    """Instructions with responses, and test sets scored by ROUGE-L of generated responses.

    A sequence is the prompt, the answer and the end token, tokenised together. Prompts are cut at `max_prompt`
    tokens, sequences at `max_prompt + max_response`. The rows are the tokens of the answer and its end. A line of a
    file has `instruction` and optionally `input`, or a complete `prompt`; `output` is an answer or a list of answers.

    Args:
        name: Name of the data set and of its first test set.
        seed: Seed of the order.
        batch_size: Texts of a training step.
        train: File of the training rows.
        test: File of the first test set.
        path: Folder of the files; None for $KDBENCH_DATA/NAME.
        further: Files of additional test sets, by name.
        validation: Number of rows, the first ones of `train`, for selection of the best epoch; 0 for none.
        draws: Number of responses to each test prompt; validation prompts get one.
        temperature: Sampling temperature; 0 is greedy decoding, with one response.
        tokenizer: See `CausalData`.
        vocabulary: See `CausalData`.
        max_prompt: Maximum length of prompts, in tokens.
        max_response: Maximum length of responses, in tokens.
        eval_batch_size: Texts of an evaluation step.
        epoch_steps: Steps of an epoch; None for one pass.

    Raises:
        ValueError: For invalid options.
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
        check_non_negative("dataset", validation=validation, temperature=temperature)
        check_at_least("dataset", 1, draws=draws)
        files = dict(further or {})
        for other in files:
            if other in ("test", name) or other.startswith(("train", "validation")) or "/" in other:
                raise ValueError(
                    f"dataset.further.{other}: the name is reserved for a split; choose another name"
                )
        self._path, self._train, self._validation = path, train, validation
        self._tests = {"test": test, **files}
        self.draws, self.temperature = (draws if temperature else 1), temperature
        self.eval_splits = ("validation",) if validation else ("test",)
        self.final_splits = tuple(name for name in self._tests if name not in self.eval_splits)

    def load(self) -> None:
        """Read the files, split off the validation part, load or train the tokenizer, and tokenise."""
        folder = Path(self._path) if self._path else Path(os.environ.get("KDBENCH_DATA", "")) / self.name
        rows = read_instructions(folder / self._train)
        if len(rows) <= self._validation:
            raise ValueError(
                f"dataset.validation={self._validation} leaves none of the {len(rows)} rows in "
                f"{folder / self._train} for training"
            )
        self.texts = {"train": rows[self._validation :], "validation": rows[: self._validation]}
        self.texts |= {split: read_instructions(folder / file) for split, file in self._tests.items()}
        self.set_tokenizer([text for row in self.texts["train"] for text in (row.prompt, *row.answers[:1])])
        content = {split: [list(asdict(row).values()) for row in rows] for split, rows in self.texts.items()}
        self.fingerprint = self.fingerprint_of(content)
        splits = ("train", *self.eval_splits, *self.final_splits)
        self.token_views = {
            split: {"text": self._tokenise(self.texts[split])} for split in dict.fromkeys(splits)
        }

    def _tokenise(self, rows: Sequence[Instruction]) -> TokenView:
        max_tokens = self._max_prompt + self.max_response
        prompts = [row.prompt for row in rows]
        sequences = [row.prompt + row.answers[0] for row in rows]

        def make() -> list[list[int]]:
            pairs = zip(self._encode(prompts), self._encode(sequences), strict=True)
            tokens = []
            for prompt, sequence in pairs:
                short = prompt[: self._max_prompt]
                tokens += [short, [*sequence[len(prompt) :], self.end_id][: max_tokens - len(short)]]
            return tokens

        key = [tokenizer_hash(self.tokenizer), self.end_id, self._max_prompt, max_tokens]
        tokens = cached_tokens([*key, texts_hash(prompts), texts_hash(sequences)], make).rows()
        return self.join(tokens[::2], tokens[1::2])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]


def read_instructions(file: Path) -> list[Instruction]:
    """Read the rows of a file in their order.

    Raises:
        DataError: If the file is missing, empty or invalid; the message names the line.
    """
    if not file.is_file():
        raise DataError(
            f"{file} does not exist; pass dataset.path=FOLDER and the names of its files (dataset.train, dataset.test, "
            f"dataset.further.NAME), with one JSON object per line: instruction, input (can be empty), output"
        )
    rows = []
    for number, line in enumerate(file.read_text().split("\n"), 1):
        if line.strip():
            try:
                rows.append(_instruction(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file}, line {number}: no instruction and output ({error!r})") from error
    if not rows:
        raise DataError(f"{file} is empty")
    return rows


def _instruction(record: Mapping[str, Any]) -> Instruction:
    output = record["output"]
    answers = tuple(map(str, output if isinstance(output, list) else [output]))
    if not answers:
        raise ValueError("output is an empty list")
    if "instruction" not in record:
        if not record["prompt"]:
            raise ValueError("prompt is empty")
        return Instruction(str(record["prompt"]), answers)
    template = WITH_INPUT if record.get("input") else ALONE
    return Instruction(template.format(instruction=record["instruction"], input=record.get("input")), answers)
