"""Files of the rationale data sets: parquet, or the folder layout of Distilling step-by-step."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.data.images.image_io import DataError
from kdbench.data.images.parquet import read_rows
from kdbench.data.text.rationale_parsing import RULES

SHIPPED = Path(__file__).parent / "shipped"
NLI = ("entailment", "neutral", "contradiction")

ROWS: dict[str, dict[str, int]] = {
    "cqa": {"train": 9741, "test": 1221},
    "svamp": {"train": 800, "test": 200},
    "esnli": {"train": 549367, "valid": 9842, "test": 9824},
    "anli1": {"train": 16946, "valid": 1000, "test": 1000},
}
"""Number of rows of each split of the four data sets."""


@dataclass(frozen=True, slots=True)
class RationaleExample:
    """A question with its gold label and a language model's answer.

    Attributes:
        input: The question.
        label: The gold label.
        rationale: The language model's rationale; blank if it gave none.
        llm_label: The language model's label; blank if it gave none.
    """

    input: str
    label: str
    rationale: str
    llm_label: str

    @property
    def is_blank(self) -> bool:
        """Whether the language model gave no rationale or no label."""
        return not (self.rationale.strip() and self.llm_label.strip())


def read_split(name: str, split: str, path: str | None) -> list[RationaleExample] | None:
    """Read a split.

    Args:
        name: Data set, a key of `ROWS`.
        split: Split of the data set.
        path: Folder, or its parent, with parquet files `SPLIT-*.parquet`, or with `NAME_SPLIT.json` and
            `llm/SPLIT_CoT_*.json`; None for $KDBENCH_DATA/dss/NAME, then the files in the package.

    Returns:
        The rows in their order; None if the split has no files.

    Raises:
        DataError: If files are damaged, or rows are missing.
    """
    folder = _folder(name, path)
    files = sorted(folder.glob(f"{split}-*.parquet"))
    table = folder / f"{name}_{split}.json"
    if files:
        rows = [_example(record) for record in _records(files)]
    elif table.is_file():
        rows = _read_official(folder, name, split, table)
    else:
        return None
    expected = ROWS[name].get(split)
    if len(rows) != expected:
        raise DataError(f"{folder}, {split}: {name} has {expected} rows, found {len(rows)}")
    return rows


def _folder(name: str, path: str | None) -> Path:
    data = os.environ.get("KDBENCH_DATA")
    folders = [Path(path) / name, Path(path)] if path else [Path(data) / "dss" / name] if data else []
    folders += [SHIPPED] if name == "svamp" and path is None else []
    for folder in folders:
        if any(folder.glob("*.parquet")) or (folder / f"{name}_test.json").is_file():
            return folder
    searched = " and ".join(map(str, folders)) or "$KDBENCH_DATA/dss (KDBENCH_DATA is not set)"
    raise DataError(
        f"data set {name} not found in {searched}. Pass dataset.path=FOLDER with train-*.parquet and "
        f"test-*.parquet (columns input, label, rationale, llm_label), or {name}_train.json, {name}_test.json and "
        f"llm/train_CoT_0.json ... as in github.com/google-research/distilling-step-by-step"
    )


def _records(files: Sequence[Path]) -> list[dict[str, Any]]:
    rows = read_rows(files, ("input", "label", "rationale", "llm_label"))
    try:
        pair = read_rows(files, ("premise", "hypothesis"))
    except DataError:
        return list(rows.to_pylist())
    return [
        row | {"input": _join_premise(record)}
        for row, record in zip(rows.to_pylist(), pair.to_pylist(), strict=True)
    ]


def _example(record: dict[str, Any]) -> RationaleExample:
    return RationaleExample(*(str(record[key] or "") for key in ("input", "label", "rationale", "llm_label")))


def _read_official(folder: Path, name: str, split: str, table: Path) -> list[RationaleExample]:
    records = [json.loads(line) for line in table.read_text().splitlines() if line.strip()]
    chunks = sorted(
        (folder / "llm").glob(f"{split}_CoT_*.json"), key=lambda file: int(file.stem.rsplit("_", 1)[1])
    )
    texts = [text for chunk in chunks for text in json.loads(chunk.read_text())]
    if len(texts) != len(records):
        raise DataError(
            f"{folder}, {split}: {len(records)} rows, but {len(texts)} completions in {len(chunks)} files of llm/; "
            f"both must be equal, because rows and completions match by their order"
        )
    answers = map(RULES[name], texts)
    return [
        RationaleExample(*_question(record), *answer) for record, answer in zip(records, answers, strict=True)
    ]


def _question(record: dict[str, Any]) -> tuple[str, str]:
    """Return (input, label) of a row as the official loader builds them."""
    if "choices" in record:
        choices = (f"({letter}) {text}" for letter, text in zip("abcde", record["choices"], strict=True))
        return "\n".join([record["question"], "Answer Choices:", *choices]), record["answer"]
    if "premise" in record:
        label = record["label"]
        return _join_premise(record), NLI[label] if isinstance(label, int) else label
    return record["input"], record["label"]


def _join_premise(record: dict[str, Any]) -> str:
    return f"{record['premise']}</s>{record['hypothesis']}"
