"""The rationale data sets on disk: parquet files, or the folder layout of Distilling step-by-step."""

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
"""How many rows each split of the four sets has."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question with the gold label, and the language model's rationale and label (blank where it had none)."""

    input: str
    label: str
    rationale: str
    llm_label: str

    @property
    def is_blank(self) -> bool:
        """Whether the model's text has no rationale or no label."""
        return not (self.rationale.strip() and self.llm_label.strip())


def read_split(name: str, split: str, path: str | None) -> list[Row] | None:
    """The rows of a split in their order; None where its files are not there.

    path: a folder, with parquet files `SPLIT-*.parquet` or with `NAME_SPLIT.json` and `llm/SPLIT_CoT_*.json` (also one
    below it called `name`). DataError for broken files, and where rows are missing.
    """
    folder = _folder(name, path)
    files = sorted(folder.glob(f"{split}-*.parquet"))
    table = folder / f"{name}_{split}.json"
    if files:
        rows = [_row(record) for record in _records(files)]
    elif table.is_file():
        rows = _official(folder, name, split, table)
    else:
        return None
    expected = ROWS[name].get(split)
    if len(rows) != expected:
        raise DataError(f"{folder}, {split}: {name} has {expected} rows, found {len(rows)}")
    return rows


def _folder(name: str, path: str | None) -> Path:
    data = os.environ.get("KDBENCH_DATA")
    places = [Path(path) / name, Path(path)] if path else [Path(data) / "dss" / name] if data else []
    places += [SHIPPED] if name == "svamp" and path is None else []
    for place in places:
        if any(place.glob("*.parquet")) or (place / f"{name}_test.json").is_file():
            return place
    looked = " and ".join(map(str, places)) or "$KDBENCH_DATA/dss (KDBENCH_DATA is not set)"
    raise DataError(
        f"no data set {name}: looked for {looked}. Give dataset.path=FOLDER, which holds train-*.parquet and "
        f"test-*.parquet (columns input, label, rationale, llm_label), or {name}_train.json, {name}_test.json and "
        f"llm/train_CoT_0.json ... as github.com/google-research/distilling-step-by-step has them"
    )


def _records(files: Sequence[Path]) -> list[dict[str, Any]]:
    rows = read_rows(files, ("input", "label", "rationale", "llm_label"))
    try:
        pair = read_rows(files, ("premise", "hypothesis"))
    except DataError:
        return list(rows.to_pylist())
    return [
        row | {"input": _premise(more)} for row, more in zip(rows.to_pylist(), pair.to_pylist(), strict=True)
    ]


def _row(record: dict[str, Any]) -> Row:
    return Row(*(str(record[key] or "") for key in ("input", "label", "rationale", "llm_label")))


def _official(folder: Path, name: str, split: str, table: Path) -> list[Row]:
    records = [json.loads(line) for line in table.read_text().splitlines() if line.strip()]
    chunks = sorted(
        (folder / "llm").glob(f"{split}_CoT_*.json"), key=lambda file: int(file.stem.rsplit("_", 1)[1])
    )
    texts = [text for chunk in chunks for text in json.loads(chunk.read_text())]
    if len(texts) != len(records):
        raise DataError(
            f"{folder}, {split}: {len(records)} rows, but {len(texts)} completions in {len(chunks)} files of llm/; "
            f"nothing but their order joins them"
        )
    parts = map(RULES[name], texts)
    return [Row(*_asked(record), *found) for record, found in zip(records, parts, strict=True)]


def _asked(record: dict[str, Any]) -> tuple[str, str]:
    """(input, label) of a row of the official files, as their loader makes them."""
    if "choices" in record:
        choices = (f"({letter}) {text}" for letter, text in zip("abcde", record["choices"], strict=True))
        return "\n".join([record["question"], "Answer Choices:", *choices]), record["answer"]
    if "premise" in record:
        label = record["label"]
        return _premise(record), NLI[label] if isinstance(label, int) else label
    return record["input"], record["label"]


def _premise(record: dict[str, Any]) -> str:
    return f"{record['premise']}</s>{record['hypothesis']}"
