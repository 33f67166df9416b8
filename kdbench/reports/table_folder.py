"""The folder of a table: its page README.md, its chart table.png, and its results.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdbench.reports.chart import draw_chart
from kdbench.reports.markdown import markdown
from kdbench.reports.read import Record
from kdbench.reports.report import Report
from kdbench.reports.results_file import encode_results
from kdbench.utils.atomic_io import write_atomically

CHART = "table.png"


def write_table(report: Report, records: Sequence[Record], folder: Path) -> list[Path]:
    """Write the results of a table, and the page and chart made from them.

    Args:
        report: The report of the table.
        records: The records of its runs, finished or not.
        folder: Where to write; made where it does not exist.

    Returns:
        The files.
    """
    results = folder / "results.jsonl"
    write_atomically(results, encode_results(report.command, records, report.missing))
    return [*write_page(report, folder), results]


def write_page(report: Report, folder: Path) -> list[Path]:
    """Write the page and the chart of a table; return both files."""
    page, chart = folder / "README.md", folder / CHART
    write_atomically(page, markdown(report, CHART).encode())
    draw_chart(report, chart)
    return [page, chart]
