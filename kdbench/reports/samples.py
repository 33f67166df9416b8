"""What students of text wrote on test: some of it, for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.reports.aggregate import Series
from kdbench.reports.read import SCORED_ON, Run
from kdbench.utils.formatting import markdown_table

FEW = 3
"""Rows that a Markdown page shows of each student; the page in HTML shows all that were kept."""


@dataclass(frozen=True)
class Written:
    """What one student wrote: a mapping from heading to text for each row of the test set that was kept."""

    title: str
    rows: list[dict[str, str]]

    @property
    def headings(self) -> list[str]:
        """Of all rows."""
        return list(dict.fromkeys(heading for row in self.rows for heading in row))


def written(series: Sequence[Series]) -> list[Written]:
    """Of each row of a report the first run that has left samples in its folder; the same test rows for all."""
    found = []
    for one in series:
        for run in one.runs:
            if rows := samples_of(run):
                title = f"{run.title}, {one.row.dataset}"
                found.append(Written(title + (f" ({one.setting})" if one.setting else ""), rows))
                break
    return found


def samples_of(run: Run) -> list[dict[str, str]]:
    """What a run left, by its folder, or the little that a results.jsonl keeps of it."""
    split = run.record.get(SCORED_ON, "test")
    kept = run.record.get("samples", []) if split == "test" else []
    try:
        lines = (Path(run.where) / "samples.jsonl").read_text().split("\n") if run.where else []
        said = [json.loads(line) for line in lines if line]
    except (OSError, ValueError):  # none, or half of one
        return list(kept)
    return [_texts(one) for one in said if one.get("split") == split] or list(kept)


def _texts(sample: dict[str, Any]) -> dict[str, str]:
    said: dict[str, Callable[[Any], str]] = {
        "right": lambda value: "yes" if value else "no",
        "confidence": lambda value: f"{100 * value:.0f} %",
    }
    return {
        key.replace("_", " "): said.get(key, str)(value)
        for key, value in sample.items()
        if key not in ("split", "row")
    }


def samples_section(found: Sequence[Written], most: int = FEW) -> list[str]:
    """The first rows of each student as Markdown; nothing where there are none."""
    if not found:
        return []
    parts = ["## Samples", f"The first {most} test rows, as the first seed of each row answered them."]
    for one in found:
        rows = [{heading: row.get(heading, "") for heading in one.headings} for row in one.rows[:most]]
        parts += [f"{one.title}:", markdown_table([{k: one_line(v) for k, v in row.items()} for row in rows])]
    return parts


def one_line(text: str) -> str:
    """As a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
