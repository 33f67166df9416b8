"""`kdbench table NAME`: run what is missing, then mean, std and n per cell, as Markdown and as a picture."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from kdbench.distributed.devices import check_alone
from kdbench.reports.published import published_for
from kdbench.reports.read import Run
from kdbench.reports.rows import columns, summarise
from kdbench.reports.samples import FEW, samples_of
from kdbench.reports.table_page import _title, markdown, picture, teacher_lines
from kdbench.runs.hydra_setup import register
from kdbench.tables.grid import Table, cells, load_table, tables
from kdbench.tables.runner import Work
from kdbench.utils.atomic_io import write_atomically


def main(arguments: list[str]) -> int:
    """Run a table and print it; 0 if every cell is there, 1 if some are not, 2 for a mistake on the command line,
    and as a shell has it (130, 143) where a signal ended it. With --dry-run say what would be run."""
    console = Console()
    words = [word for word in arguments if word != "--dry-run"]
    try:
        register()
        check_alone(f"kdbench table {' '.join(arguments)}")
        if not words:
            raise ValueError(f"kdbench table NAME [KEY=VALUE ...] [--dry-run]; tables: {', '.join(tables())}")
        table = load_table(words[0], words[1:])
        grid = cells(table)
        work = Work(table, grid, lambda line: console.print(line, highlight=False, soft_wrap=True))
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    if "--dry-run" in arguments:
        work.foretell()
        return 0
    started = time.monotonic()
    work.run(console)
    mine = work.records()
    done = sum(record["state"] == "done" for record in mine)
    _show(console, table, mine)
    if done:
        _write(console, table, mine, f"kdbench table {' '.join(words)}", work.missing())
    work.conclude(done, time.monotonic() - started)
    if work.stopped_by is not None:
        return 128 + work.stopped_by
    return 0 if done == len(grid) else 1


def _show(console: Console, table: Table, records: list[dict[str, Any]]) -> None:
    rows, published = summarise(records), published_for(table.name)
    first = 0 if len({row.pair for row in rows}) > 1 else 1  # the same pair in every row says nothing
    view = RichTable()
    shown = columns(rows, published)[first:]
    for column in shown:
        justify: Any = "left" if column.is_name else "right"
        widest = max((len(column.text(row)) for row in rows), default=0)
        view.add_column(column.heading, justify=justify, overflow="fold", min_width=min(widest, 12))
    for row in rows:
        view.add_row(*(column.text(row) for column in shown))
    console.print(_title(table, rows), highlight=False)
    console.print(view)
    for line in (table.caption.strip(), *teacher_lines(records)):
        console.print(line, highlight=False)


def _write(
    console: Console, table: Table, records: list[dict[str, Any]], command: str, missing: Sequence[str]
) -> None:
    """The page, the picture, and the records that both are made from."""
    folder = Path(table.output)
    kept = (
        "schema",
        "names",
        "table",
        "task",
        "variant",
        "protocol",
        "seed",
        "state",
        "reason",
        "results",
        "parameters",
        "seconds",
        "stage",
        "cohort",
        "teacher",
        "hashes",
        "config",
        "threads",
        "machine",
        "versions",
        "commit",
    )
    lines = [json.dumps({"command": command} | ({"missing": list(missing)} if missing else {}))]
    for record in map(_without_places, records):
        samples = samples_of(Run(record, record.get("folder", "")))[:FEW]
        shown = {key: record[key] for key in kept if key in record}
        lines.append(json.dumps(shown | ({"samples": samples} if samples else {})))
    write_atomically(folder / "results.jsonl", ("\n".join(lines) + "\n").encode())
    write_atomically(folder / "README.md", markdown(table, records, command, missing).encode())
    picture(table, summarise(records), folder / "table.png")
    console.print(f"written: {folder}/README.md, table.png, results.jsonl", highlight=False)


def _without_places(record: dict[str, Any]) -> dict[str, Any]:
    """A record for others: without where this machine keeps data, weights and runs."""
    if "config" not in record:
        return record
    places = {"dataset": ("path",), "teacher": ("checkpoint", "checkpoints", "init")}
    config = {key: value for key, value in record["config"].items() if key != "output"}
    for section, names in places.items():
        if isinstance(config.get(section), dict):
            config[section] = {key: value for key, value in config[section].items() if key not in names}
    return {**record, "config": _shortened(config)}


def _shortened(value: Any) -> Any:
    """Absolute paths as their last parts."""
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
