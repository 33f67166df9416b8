"""The parts of docs/lm.md that are read from files: what a loss costs over many words, and what others published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.reports.published import published_for, published_markdown
from kdbench.utils.formatting import markdown_table

START, END = "<!-- python scripts/render_lm.py: {} -->\n", "\n<!-- end -->"
PUBLISHED = "abkd-gpt2", "abkd-gpt2-others"
"""Rows that `kdbench table abkd-gpt2` has runs for, and rows that no run of ours can have."""
RERUNS = "abkd-gpt2-wasd", "abkd-lm-wasd", "abkd-lm-adakd"
"""The same methods as others ran them, in pipelines of their own."""


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
    return f"{found['about']}\n\n{markdown_table(rows)}"


def published_words() -> str:
    """What is published of instruction following, as it was published, with its status."""
    sources = [found for name in PUBLISHED if (found := published_for(name))]
    values = [value for source in sources for value in source.values]
    rows = [
        {"loss": name} | {value.dataset: value.text for value in values if value.loss == name}
        for name in dict.fromkeys(value.loss for value in values)
    ]
    about = f"{sources[0].about} {' '.join(source.note.strip() for source in sources[1:])}"
    again = [published_markdown(found) for name in RERUNS if (found := published_for(name))]
    return "\n\n".join([about, markdown_table(rows), *again])


def with_parts(page: str, measured: Mapping[str, Any]) -> str:
    """The page with what stands between its marks written anew."""
    for name, words in (("measured", measured_words(measured)), ("published", published_words())):
        start = START.format(name)
        before, rest = page.split(start)
        page = before + start + words + END + rest.split(END, 1)[1]
    return page


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
