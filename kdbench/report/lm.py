"""The part of docs/lm.md that is measured: a loss over a large vocabulary, all rows at once and in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.listing import markdown

START, END = "<!-- python scripts/render_lm.py -->\n", "\n<!-- end -->"


def measured_words(found: Mapping[str, Any]) -> str:
    """The table of benchmarks/lm_losses.json, as `python benchmarks/lm_losses.py --out` wrote it."""
    rows = [
        {
            "loss": row["loss"],
            "tokens": f"{row['tokens']:,}",
            "words": f"{row['words']:,}",
            "MiB, all at once": _number(row.get("whole_mib")),
            "MiB, in pieces": _number(row["pieces_mib"]),
            "s, all at once": _number(row.get("whole_s"), 1),
            "s, in pieces": _number(row["pieces_s"], 1),
        }
        for row in found["rows"]
    ]
    return f"{found['about']}\n\n{markdown(rows)}"


def with_measured(page: str, found: Mapping[str, Any]) -> str:
    """The page with what stands between its marks written anew."""
    before, rest = page.split(START)
    return before + START + measured_words(found) + END + rest.split(END, 1)[1]


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
