"""`kdbench report`: runs of any number of machines next to published numbers, as pages and as data."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.core.errors import RunError
from kdbench.reports.formats import FORMATS
from kdbench.reports.places import NoRunsError, place_of
from kdbench.reports.published import published_for, published_markdown

if TYPE_CHECKING:
    from kdbench.reports.report import Report


def main(arguments: list[str]) -> int:
    """Write a report.

    Returns:
        Exit code: 0, or 2 for a mistake on the command line and where no run is found.
    """
    options = _options(arguments)
    command = shlex.join(["kdbench", "report", *arguments])
    try:
        formats = _formats(options.formats)
        for name in options.what:
            place_of(name)  # a mistake is reported before the slow imports below
        report, files = _write(options, command, formats)
    except (ValueError, RunError) as error:
        published = published_for(error.table) if isinstance(error, NoRunsError) else None
        if published is not None:
            print(published_markdown(published) + "\n")
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    print(_text(report, options.print))
    print("written: " + ", ".join(map(str, files)))
    return 0


def _write(options: argparse.Namespace, command: str, formats: tuple[str, ...]) -> tuple[Report, list[Path]]:
    from kdbench.reports.formats import write_report
    from kdbench.reports.report import report_on
    from kdbench.runs.hydra_setup import register

    register()
    report = report_on(options.what, command, options.against)
    folder = Path(options.output or Path("runs") / "reports" / _name(options.what))
    return report, write_report(report, folder, formats, options.bold)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kdbench report", description=__doc__)
    parser.add_argument(
        "what", nargs="+", help="tables by name, run folders (all runs below), results.jsonl files"
    )
    parser.add_argument("--output", help="folder to write to; default runs/reports/NAME")
    parser.add_argument("--formats", default=",".join(FORMATS), help=f"some of {','.join(FORMATS)}")
    parser.add_argument(
        "--against",
        default="ce",
        help="the loss that others are compared with within seeds; all: every two",
    )
    parser.add_argument(
        "--bold", action="store_true", help="LaTeX: the highest accuracy of each pair in bold"
    )
    parser.add_argument("--print", action="store_true", help="print the Markdown page")
    return parser.parse_args(arguments)


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(text.split(","))
    if stray := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"--formats={stray[0]}; possible: {', '.join(FORMATS)}")
    return formats


def _name(what: list[str]) -> str:
    """Return the name of the report's folder, after the first thing that the report is about."""
    path = Path(what[0])
    return path.parent.name or path.stem if path.is_file() else path.resolve().name


def _text(report: Report, whole: bool) -> str:
    if whole:
        from kdbench.reports.markdown import markdown

        return markdown(report)
    lines = [report.title, f"{len(report.runs)} runs in {len(report.series)} rows"]
    return "\n".join([*lines, *(f"not counted: {one.where}: {one.reason}" for one in report.left)])
