"""`kdbench table NAME`: run what is missing of a table, print it, and write its page, chart and results."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from kdbench.cli.errors import command
from kdbench.distributed.devices import check_alone
from kdbench.reports.report import report_on_table
from kdbench.reports.table_folder import write_table
from kdbench.reports.terminal import print_report
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import load_table, tables
from kdbench.tables.grid import cells
from kdbench.tables.runner import TableRunner


@command
def main(arguments: list[str]) -> int:
    """Run a table and print it; with --dry-run, print what would be run.

    Returns:
        Exit code: 0 if every run is done, 1 if some are not, 2 for a mistake on the command line, and 128 + N where
        signal N stopped the command.
    """
    console = Console()
    name_and_changes = [argument for argument in arguments if argument != "--dry-run"]
    register()
    check_alone(f"kdbench table {' '.join(arguments)}")
    if not name_and_changes:
        raise ValueError(f"kdbench table NAME [KEY=VALUE ...] [--dry-run]; tables: {', '.join(tables())}")
    table = load_table(name_and_changes[0], name_and_changes[1:])
    grid = cells(table)
    work = TableRunner(table, grid, lambda line: console.print(line, highlight=False, soft_wrap=True))
    if "--dry-run" in arguments:
        work.dry_run()
        return 0
    started = time.monotonic()
    work.run(console)
    records = work.records()
    done = sum(record["state"] == "done" for record in records)
    report = report_on_table(table, records, f"kdbench table {' '.join(name_and_changes)}", work.missing())
    print_report(console, report)
    if done:
        files = write_table(report, records, Path(table.output))
        console.print(f"written: {files[0]}, {', '.join(file.name for file in files[1:])}", highlight=False)
    work.conclude(done, time.monotonic() - started)
    if work.stopped_by is not None:
        return 128 + work.stopped_by
    return 0 if done == len(grid) else 1
