"""A report as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.reports.columns import comparison_caption, comparison_tables, provenance_table, teachers_table
from kdbench.reports.model import Table
from kdbench.reports.provenance import footnotes
from kdbench.reports.report import Report
from kdbench.reports.samples import FEW, sample_tables

LEAST_SEEDS = 3
"""Paired comparisons on fewer seeds are not shown: they say nothing of a difference."""


def markdown(report: Report, chart: str | None = None) -> str:
    """Return the whole report as a page, with a picture of that file name where there is one."""
    parts = [
        f"# {report.title}",
        report.caption,
        table_to_markdown(report.results),
        *missing_note(report.missing),
        "\n".join(f"* {source.about}" for source in report.sources),
        _generated_by(report),
        *([f"![chart]({chart})"] if chart else []),
        *_section(
            "## Teachers", [table_to_markdown(teachers_table(report.teachers))] if report.teachers else []
        ),
        *_section("## Paired comparisons", _comparisons(report)),
        *_section("## Samples", _samples(report)),
        *_section("## Provenance", [table_to_markdown(provenance_table(report.runs))] if report.runs else []),
        *_section("## Not counted", ["\n".join(f"* `{one.where}`: {one.reason}" for one in report.left)]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table_to_markdown(table: Table) -> str:
    """Return a table in Markdown; numbers are aligned to the right."""
    columns = table.printed
    head = f"| {' | '.join(column.heading for column in columns)} |"
    rule = f"|{'|'.join('--:' if column.kind == 'number' else '---' for column in columns)}|"
    return "\n".join([head, rule, *(f"| {' | '.join(map(_one_line, line))} |" for line in table.lines)])


def missing_note(missing: Sequence[str]) -> list[str]:
    """Return a sentence on the runs of a table that are not done; nothing where all are."""
    return [f"Not done, and not in any number here: {'; '.join(missing)}."] if missing else []


def _one_line(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _section(heading: str, parts: Sequence[str]) -> list[str]:
    return [heading, *parts] if any(parts) else []


def _generated_by(report: Report) -> str:
    unprinted = report.results.constants(("dataset", "epochs"))
    printed = {column.key for column in report.results.printed}
    same = [f"{heading} {text}" for key, (heading, text) in unprinted.items() if key not in printed]
    constants = [f"All rows: {', '.join(same)}."] if same else []
    return " ".join([f"Made by `{report.command}`.", *constants, *footnotes(report.runs)])


def _comparisons(report: Report) -> list[str]:
    tables = comparison_tables(report.comparisons, LEAST_SEEDS)
    parts = [comparison_caption(report.comparisons, LEAST_SEEDS)]
    return parts + [part for table in tables for part in (f"{table.title}:", table_to_markdown(table))]


def _samples(report: Report) -> list[str]:
    tables = sample_tables(report.series)
    if not tables:
        return []
    parts = [f"The first {FEW} test rows, answered by the first seed of each row."]
    for table in tables:
        parts += [f"{table.title}:", table_to_markdown(Table(table.columns, table.rows[:FEW]))]
    return parts
