"""`kdbench table NAME`: run what is missing, then mean, std and n per cell, as Markdown and as a picture."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from kdbench.config import register
from kdbench.files import write_atomically
from kdbench.report.ahead import store_ahead
from kdbench.report.grid import Cell, Table, cells, found, load_table, tables
from kdbench.report.published import published_for
from kdbench.report.running import Outcome, batches, run_missing


@dataclass(frozen=True)
class Row:
    """One loss on one pair over the seeds: accuracies in per cent, of the last epoch."""

    pair: str
    loss: str
    top1: list[float]
    agreement: float
    best_on_test: float
    seconds: float
    dataset: str = ""

    @property
    def mean(self) -> float:
        """Of top-1 at the last epoch."""
        return statistics.fmean(self.top1)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1); None for a single run."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None

    def cells(self) -> list[str]:
        """The row as text, in the order of HEADINGS."""
        std = f" ± {self.std:.2f}" if self.std is not None else ""
        return [
            self.pair.replace(":", " -> "),
            self.loss,
            f"{self.mean:.2f}{std}",
            str(len(self.top1)),
            f"{self.best_on_test:.2f}",
            f"{self.agreement:.1f}",
            f"{self.seconds:.0f}",
        ]


HEADINGS = ("pair", "loss", "last top-1 %", "n", "best_on_test %", "agreement %", "training s")


def grid(table: Table, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and the rows as text, with what was published for the table, where something was."""
    published = published_for(table.name)
    lines = [row.cells() for row in rows]
    if published is None:
        return [*HEADINGS], lines
    beside = [published.beside(row.dataset, row.pair, row.loss) for row in rows]
    return [*HEADINGS, f"published % ({published.selection})"], [
        [*line, value] for line, value in zip(lines, beside, strict=True)
    ]


def summarise(records: list[dict[str, Any]]) -> list[Row]:
    """A row for each pair and loss that has at least one finished run, in the order of the records."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        names = record["names"]
        if record["state"] == "done":
            groups.setdefault((f"{names['teacher']}:{names['student']}", names["loss"]), []).append(record)
    return [_row(pair, loss, runs) for (pair, loss), runs in groups.items()]


def _row(pair: str, loss: str, runs: list[dict[str, Any]]) -> Row:
    last = [run["results"]["last"] for run in runs]
    best = statistics.fmean(run["results"]["best_on_test"]["top1"] for run in runs)
    agreement = statistics.fmean(row["agreement"] for row in last)
    seconds = statistics.fmean(run["seconds"] + run.get("stage", {}).get("seconds", 0) for run in runs)
    dataset = runs[0]["names"].get("dataset", "")
    return Row(pair, loss, [row["top1"] for row in last], agreement, best, seconds, dataset)


def markdown(table: Table, records: list[dict[str, Any]], command: str) -> str:
    """The whole page."""
    lines = [f"# {table.title}", "", table.caption.strip(), "", *_teachers(records), ""]
    headings, rows = grid(table, summarise(records))
    lines += [f"| {' | '.join(headings)} |", "|---|---|" + "--:|" * (len(headings) - 2)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    published = published_for(table.name)
    about = [published.about, ""] if published else []
    return "\n".join(
        [*lines, "", *_larger(records), *about, _footer(records, command), "", "![chart](table.png)", ""]
    )


def _larger(records: list[dict[str, Any]]) -> list[str]:
    """Which losses answer with more than the student at test time, and by how much."""
    counted = [
        (record["names"]["loss"], record["parameters"]) for record in records if "parameters" in record
    ]
    said = {
        f"{loss} answers with {counts['at_test']:,} parameters, the student has {counts['student']:,}."
        for loss, counts in counted
        if counts["at_test"] > counts["student"]
    }
    return [*sorted(said), ""] if said else []


def _teachers(records: list[dict[str, Any]]) -> list[str]:
    teachers = {
        record["teacher"]["name"]: record["teacher"] for record in records if record["state"] == "done"
    }
    return [
        f"Teacher {name}: {teacher['top1']:.2f} % test top-1{_spread(teacher)}."
        for name, teacher in teachers.items()
    ]


def _spread(teacher: dict[str, Any]) -> str:
    """Cross-entropy and CMI, of teachers that kdbench has trained."""
    said = {"nll": "cross-entropy on test", "cmi": "CMI on the training images"}
    return "".join(f", {words} {teacher[key]:.4f} nats" for key, words in said.items() if key in teacher)


def _footer(records: list[dict[str, Any]], command: str) -> str:
    """Where the numbers come from, as their own records say."""

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    machines = all_of(
        f"{record['machine']['processor']}, {record['machine']['cpus']} CPUs" for record in records
    )
    return (
        f"Made by `{command}` on {machines} ({all_of(record['threads'] for record in records)} thread(s) a run), "
        f"torch {all_of(record['versions']['torch'] for record in records)}, "
        f"commit {all_of(record['commit'] for record in records)}. Training times leave out start and evaluation."
        f"{_shared(records)}{_stored(records)}"
    )


def _shared(records: list[dict[str, Any]]) -> str:
    """A time from a cohort is not that of a run alone: say which losses have some."""
    losses = sorted({record["names"]["loss"] for record in records if record.get("cohort")})
    if not losses:
        return ""
    return f" Trained in cohorts, with a part of the shared time each: {', '.join(losses)}."


def _stored(records: list[dict[str, Any]]) -> str:
    """Stored answers are rounded: say which losses have read them."""
    read = {
        (record["names"]["loss"], record["teacher"]["answers"]["storage"])
        for record in records
        if isinstance(record.get("teacher", {}).get("answers"), dict)
    }
    if not read:
        return ""
    storages, losses = sorted({storage for _, storage in read}), sorted({loss for loss, _ in read})
    return f" The teacher's answers were read from a cache ({', '.join(storages)}): {', '.join(losses)}."


def picture(table: Table, rows: list[Row], path: Path) -> None:
    """Every run as a dot and every mean as a bar, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.45 * len(rows) + 1.6), layout="constrained")
    several = len({row.pair for row in rows}) > 1
    names = [f"{row.loss} ({row.pair.replace(':', ' -> ')})" if several else row.loss for row in rows]
    axes.barh(names, [row.mean for row in rows], color="#b8cbe0")
    for name, row in zip(names, rows, strict=True):
        axes.plot(row.top1, [name] * len(row.top1), "o", color="#1f3f66", markersize=4)
    axes.invert_yaxis()
    axes.set_xlabel("test top-1 % at the last epoch; bar: mean, dots: seeds")
    axes.set_title(table.title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Run a table and print it; 0 if every cell is there, 1 if some failed, 2 for a mistake on the command line."""
    console = Console()
    try:
        register()
        if not arguments:
            raise ValueError(f"kdbench table NAME [KEY=VALUE ...]; tables: {', '.join(tables())}")
        table = load_table(arguments[0], arguments[1:])
        grid = cells(table)
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    outcomes = _run(console, table, grid)
    records = found(table)
    mine = [records[cell.key] for cell in grid if cell.key in records]
    done = sum(record["state"] == "done" for record in mine)
    failed = [outcome for outcome in outcomes if outcome.failure]
    _show(console, table, mine)
    if done:
        _write(console, table, mine, f"kdbench table {' '.join(arguments)}")
    for outcome in failed:
        console.print(f"failed: {outcome.cell.title}: {outcome.failure}", highlight=False, soft_wrap=True)
    console.print(
        f"{done} done, {len(failed)} failed of {len(grid)}; {time.monotonic() - started:.0f} s",
        highlight=False,
    )
    return 0 if done == len(grid) else 1


def _run(console: Console, table: Table, grid: list[Cell]) -> list[Outcome]:
    ended = 0

    def say(outcome: Outcome) -> None:
        nonlocal ended
        ended += 1
        state = "failed" if outcome.failure else "done"
        console.print(f"{ended:3} {state} in {outcome.seconds:.0f} s: {outcome.cell.title}", highlight=False)

    finished = {key for key, record in found(table).items() if record["state"] == "done"}
    missing = [cell for cell in grid if cell.key not in finished]
    todo = batches(table, missing)
    console.print(
        f"{table.title}: {len(grid)} runs, {len(missing)} to do in {len(todo)} processes, {table.jobs} at a time",
        highlight=False,
    )
    if table.cache:
        store_ahead(todo, table.jobs * table.threads, console)
    return run_missing(table, todo, say)


def _show(console: Console, table: Table, records: list[dict[str, Any]]) -> None:
    rows = summarise(records)
    first = 0 if len({row.pair for row in rows}) > 1 else 1  # the same pair in every row says nothing
    view = RichTable()
    headings, lines = grid(table, rows)
    for heading in headings[first:]:
        view.add_column(heading, justify="left" if heading in ("pair", "loss") else "right", no_wrap=True)
    for texts in lines:
        view.add_row(*texts[first:])
    console.print(table.title, highlight=False)
    console.print(view)
    for line in (table.caption.strip(), *_teachers(records)):
        console.print(line, highlight=False)


def _write(console: Console, table: Table, records: list[dict[str, Any]], command: str) -> None:
    """The page, the picture, and the records that both are made from."""
    folder = Path(table.output)
    kept = (
        "names",
        "seed",
        "state",
        "results",
        "seconds",
        "cohort",
        "teacher",
        "hashes",
        "threads",
        "machine",
        "versions",
        "commit",
    )
    lines = [json.dumps({"command": command})]
    lines += [json.dumps({key: record[key] for key in kept if key in record}) for record in records]
    write_atomically(folder / "results.jsonl", ("\n".join(lines) + "\n").encode())
    write_atomically(folder / "README.md", markdown(table, records, command).encode())
    picture(table, summarise(records), folder / "table.png")
    console.print(f"written: {folder}/README.md, table.png, results.jsonl", highlight=False)
