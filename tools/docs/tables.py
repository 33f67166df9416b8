"""The measured tables of experiments/, quoted in other pages between marks."""

from __future__ import annotations

import json
import re
from typing import Any

from kdbench.reports.rows import summarise
from kdbench.reports.table_page import not_done, rows_markdown
from kdbench.utils.paths import EXPERIMENTS_DIR

QUOTE = re.compile(
    r"(<!-- python scripts/render_experiments.py: (\S+) -->\n).*?((?<=\n)<!-- end -->)", re.DOTALL
)


def measured(name: str) -> tuple[str, list[dict[str, Any]], list[str]]:
    """The command that measured a table, the records of its runs, and those that are missing."""
    head, *records = map(json.loads, (EXPERIMENTS_DIR / name / "results.jsonl").read_text().splitlines())
    return head["command"], records, head.get("missing", [])


def with_tables(page: str) -> str:
    """The page with the rows of each table that it quotes as they are in experiments/."""
    return QUOTE.sub(lambda found: found[1] + _rows(found[2]) + found[3], page)


def _rows(name: str) -> str:
    command, records, missing = measured(name)
    lines = [rows_markdown(name, summarise(records)), "", *not_done(missing), f"Measured by `{command}`."]
    return "\n".join(lines) + "\n"
