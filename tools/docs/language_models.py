"""The parts of docs/lm.md that come from files: the cost of token-level losses, and published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.reports.published import published_for, published_markdown
from kdbench.utils.formatting import markdown_table

START, END = "<!-- python scripts/render_lm.py: {} -->\n", "\n<!-- end -->"
PUBLISHED = "abkd-gpt2", "abkd-gpt2-others"
"""Published rows that `kdbench table abkd-gpt2` can run, and rows that kdbench cannot run."""
RERUNS = "abkd-gpt2-wasd", "abkd-lm-wasd", "abkd-lm-adakd"
"""The same methods as others reran them in their own pipelines."""


def measured_costs(measured: Mapping[str, Any]) -> str:
    """Return the table of costs.

    Args:
        measured: The content of benchmarks/lm_losses.json.
    """
    rows = [
        {
            "loss": row["loss"],
            "tokens": f"{row['tokens']:,}",
            "vocabulary": f"{row['vocab_size']:,}",
            "MiB, all at once": _number(row.get("whole_mib")),
            "MiB, chunked": _number(row["chunked_mib"]),
            "s, all at once": _number(row.get("whole_s"), 1),
            "s, chunked": _number(row["chunked_s"], 1),
        }
        for row in measured["rows"]
    ]
    return f"{measured['about']}\n\n{markdown_table(rows)}"


def published_numbers() -> str:
    """Return what is published on instruction following, with the status of each source."""
    sources = [source for name in PUBLISHED if (source := published_for(name))]
    values = [value for source in sources for value in source.values]
    rows = [
        {"loss": name} | {value.dataset: value.text for value in values if value.loss == name}
        for name in dict.fromkeys(value.loss for value in values)
    ]
    about = f"{sources[0].about} {' '.join(source.note.strip() for source in sources[1:])}"
    reruns = [published_markdown(source) for name in RERUNS if (source := published_for(name))]
    return "\n\n".join([about, markdown_table(rows), *reruns])


def with_parts(page: str, measured: Mapping[str, Any]) -> str:
    """Return the page with the text between its marks rewritten."""
    for name, text in (("measured", measured_costs(measured)), ("published", published_numbers())):
        start = START.format(name)
        before, rest = page.split(start)
        page = before + start + text + END + rest.split(END, 1)[1]
    return page


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
