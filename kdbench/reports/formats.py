"""Write a report to a folder in any of its formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.utils.atomic_io import write_atomically

if TYPE_CHECKING:
    from kdbench.reports.report import Report

FORMATS = ("html", "md", "csv", "parquet", "tex")


def write_report(
    report: Report, folder: Path, formats: Sequence[str] = FORMATS, bold: bool = False
) -> list[Path]:
    """Write a report in these formats.

    Args:
        report: The report.
        folder: Where to write; made where it does not exist.
        formats: Some of `FORMATS`.
        bold: Whether LaTeX prints the highest main score of each pair in bold.

    Returns:
        The files.
    """
    files = {name: content for form in formats for name, content in _encode(report, form, bold).items()}
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _encode(report: Report, form: str, bold: bool) -> dict[str, bytes]:
    """Return the files of one format by name; each imports only what it needs."""
    if form == "html":
        from kdbench.reports.html import html

        return {"report.html": html(report).encode()}
    if form == "md":
        from kdbench.reports.markdown import markdown

        return {"report.md": markdown(report).encode()}
    if form == "tex":
        from kdbench.reports.latex import latex

        return {"report.tex": latex(report, bold).encode()}
    from kdbench.reports.data_files import csv, parquet, row_data, run_data

    encode = {"csv": csv, "parquet": parquet}[form]
    return {f"rows.{form}": encode(row_data(report.results)), f"runs.{form}": encode(run_data(report))}
