"""The measured tables of experiments/, quoted in other pages between marks."""

from __future__ import annotations

import json
import re
from typing import Any

from kdbench.config import EXPERIMENTS_DIR
from kdbench.report.rows import summarise
from kdbench.report.table import rows_markdown

QUOTE = re.compile(
    r"(<!-- python scripts/render_experiments.py: (\S+) -->\n).*?((?<=\n)<!-- end -->)", re.DOTALL
)


def measured(name: str) -> tuple[str, list[dict[str, Any]]]:
    """The command that measured a table, and the records of its runs."""
    command, *records = map(json.loads, (EXPERIMENTS_DIR / name / "results.jsonl").read_text().splitlines())
    return command["command"], records


def with_tables(page: str) -> str:
    """The page with the rows of each table that it quotes as they are in experiments/."""
    return QUOTE.sub(lambda found: found[1] + _rows(found[2]) + found[3], page)


def _rows(name: str) -> str:
    command, records = measured(name)
    return f"{rows_markdown(name, summarise(records))}\n\nMeasured by `{command}`.\n"
