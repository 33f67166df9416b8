"""Texts that students generated on the test set, for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdbench.reports.aggregate import Series
from kdbench.reports.model import Table, text_table
from kdbench.reports.read import SCORED_ON, Run

FEW = 3
"""Samples of each student that Markdown pages and results files show; the HTML page shows all that were kept."""


def sample_tables(series: Sequence[Series]) -> list[Table]:
    """Return the samples of the first run of each series that has some; the test rows are the same for all."""
    tables = []
    for one in series:
        for run in one.runs:
            if rows := samples_of(run):
                title = f"{run.title}, {one.dataset}" + (f" ({one.label})" if one.label else "")
                tables.append(text_table(title, rows))
                break
    return tables


def samples_of(run: Run) -> list[dict[str, str]]:
    """Return the samples in the folder of a run, or the few that its line of a results.jsonl has."""
    split = run.record.get(SCORED_ON, "test")
    recorded = list(run.record.get("samples", [])) if split == "test" else []
    if not run.where:
        return recorded
    try:
        lines = (Path(run.where) / "samples.jsonl").read_text().split("\n")
        samples = [json.loads(line) for line in lines if line]
    except (OSError, ValueError):  # no such file, or a half-written one
        return recorded
    return [_texts(one) for one in samples if one.get("split") == split] or recorded


def _texts(sample: dict[str, Any]) -> dict[str, str]:
    formats: dict[str, Callable[[Any], str]] = {
        "right": lambda value: "yes" if value else "no",
        "confidence": lambda value: f"{100 * value:.0f} %",
    }
    return {
        key.replace("_", " "): formats.get(key, str)(value)
        for key, value in sample.items()
        if key not in ("split", "row")
    }
