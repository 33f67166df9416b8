"""`kdbench report`: runs of any number of machines beside the published numbers, as pages and as data."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from kdbench.core.errors import RunError
from kdbench.reports.columns import row_data, run_data
from kdbench.reports.export import csv, latex, markdown, parquet
from kdbench.reports.html import html
from kdbench.reports.paired_tests import REFERENCE
from kdbench.reports.published import published_for, published_markdown
from kdbench.reports.report import NoRunsError, Report, report_on
from kdbench.runs.hydra_setup import register
from kdbench.utils.atomic_io import write_atomically

FORMATS = ("html", "md", "csv", "parquet", "tex")


def main(arguments: list[str]) -> int:
    """Write a report; 0, or 2 for a mistake on the command line or where nothing is found."""
    options = _options(arguments)
    command = shlex.join(["kdbench", "report", *arguments])
    try:
        register()
        formats = _formats(options.formats)
        report = report_on(options.what, command, options.against)
        folder = Path(options.output or Path("runs") / "reports" / _name(options.what))
        written = [folder / name for name in write(report, folder, formats, options.bold)]
    except (ValueError, RunError) as error:
        published = published_for(error.table) if isinstance(error, NoRunsError) else None
        if published is not None:
            print(published_markdown(published) + "\n")
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    print(markdown(report) if options.print else _in_short(report))
    print("written: " + ", ".join(map(str, written)))
    return 0


def write(report: Report, folder: Path, formats: tuple[str, ...] = FORMATS, bold: bool = False) -> list[str]:
    """Write these forms of a report, and return the names of the files."""
    files: dict[str, bytes] = {}
    if "html" in formats:
        files["report.html"] = html(report).encode()
    if "md" in formats:
        files["report.md"] = markdown(report).encode()
    if "tex" in formats:
        files["report.tex"] = latex(report, bold).encode()
    for form, encode in (("csv", csv), ("parquet", parquet)):
        if form in formats:
            files[f"rows.{form}"], files[f"runs.{form}"] = encode(row_data(report)), encode(run_data(report))
    for name, content in files.items():
        write_atomically(folder / name, content)
    return list(files)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kdbench report", description=__doc__)
    parser.add_argument(
        "what", nargs="+", help="tables by name, run folders (all runs below), results.jsonl files"
    )
    parser.add_argument("--output", help="folder to write to; default runs/reports/NAME")
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"some of {','.join(FORMATS)}")
    parser.add_argument(
        "--against",
        default=REFERENCE,
        help="the loss that others are compared with within seeds; all: every two",
    )
    parser.add_argument(
        "--bold", action="store_true", help="LaTeX: the highest accuracy of each pair in bold"
    )
    parser.add_argument("--print", action="store_true", help="print the Markdown")
    return parser.parse_args(arguments)


def _formats(given: str) -> tuple[str, ...]:
    chosen = tuple(given.split(","))
    if stray := [name for name in chosen if name not in FORMATS]:
        raise ValueError(f"--formats={stray[0]}; possible: {', '.join(FORMATS)}")
    return chosen


def _name(what: list[str]) -> str:
    """The report's folder, after the first thing that it is about."""
    path = Path(what[0])
    return path.parent.name or path.stem if path.is_file() else path.resolve().name


def _in_short(report: Report) -> str:
    lines = [report.title, f"{len(report.runs)} runs in {len(report.lines)} rows"]
    lines += [f"not counted: {one.where}: {one.reason}" for one in report.left]
    return "\n".join(lines)
