"""Tables of experiments/ that other pages quote between marks."""

from __future__ import annotations

import re

from kdbench.reports.markdown import missing_note, table_to_markdown
from kdbench.reports.places import committed_results
from kdbench.reports.report import report_on_table
from kdbench.reports.results_file import read_results
from kdbench.tables.definition import load_table

QUOTE = re.compile(
    r"(<!-- python scripts/render_experiments.py: (\S+) -->\n).*?((?<=\n)<!-- end -->)", re.DOTALL
)
"""A quotation: its opening mark with the name of the table, the rows, and its closing mark."""


def with_tables(page: str) -> str:
    """Return the page with every quoted table as it is in experiments/."""
    return QUOTE.sub(lambda quote: quote[1] + _rows(quote[2]) + quote[3], page)


def _rows(name: str) -> str:
    results = read_results(committed_results(name))
    report = report_on_table(load_table(name, []), results.records, results.command, results.missing)
    lines = [
        table_to_markdown(report.results),
        *missing_note(report.missing),
        f"Measured by `{results.command}`.",
    ]
    return "\n\n".join(lines) + "\n"
