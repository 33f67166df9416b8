"""A report in the terminal, by rich."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable

from kdbench.reports.model import Table
from kdbench.reports.report import Report

WIDEST = 12
"""Columns up to this width are never folded."""


def print_report(console: Console, report: Report) -> None:
    """Print title, results, caption and teachers."""
    console.print(report.title, highlight=False)
    if report.series:
        console.print(rich_table(report.results))
    for line in (report.caption, *(teacher.sentence for teacher in report.teachers)):
        if line:
            console.print(line, highlight=False)


def rich_table(table: Table) -> RichTable:
    """Return a table as rich prints it, without the pair where all rows have the same."""
    hidden = table.constants(("pair",))
    columns = [column for column in table.printed if column.key not in hidden]
    view = RichTable()
    for column in columns:
        widest = max((len(column.text(row)) for row in table.rows), default=0)
        view.add_column(
            column.heading,
            justify="right" if column.kind == "number" else "left",
            overflow="fold",
            min_width=min(widest, WIDEST),
        )
    for row in table.rows:
        view.add_row(*(column.text(row) for column in columns))
    return view
