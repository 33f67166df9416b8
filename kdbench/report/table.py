"""`kdbench table NAME`: run what is missing, then mean, std and n per cell, as Markdown and as a picture."""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from kdbench.config import register
from kdbench.devices import check_alone
from kdbench.files import write_atomically
from kdbench.metrics import GROUPS
from kdbench.report.comparing import comparisons
from kdbench.report.forms import ENOUGH, comparison_section
from kdbench.report.grid import Table, cells, load_table, tables
from kdbench.report.published import published_for
from kdbench.report.reading import Run
from kdbench.report.rows import PLAIN, Row, columns, summarise, title, value_beside
from kdbench.report.samples import FEW, samples_of, samples_section, written
from kdbench.report.series import gather
from kdbench.report.taught import teacher_lines
from kdbench.report.work import Work


def markdown(table: Table, records: list[dict[str, Any]], command: str, missing: Sequence[str] = ()) -> str:
    """The whole page. missing: the runs that are not there, with the reason of each."""
    rows, published = summarise(records), published_for(table.name)
    lines = [f"# {_title(table, rows)}", "", table.caption.strip(), "", *teacher_lines(records), ""]
    lines.append(rows_markdown(table.name, rows))
    series, _ = gather(
        [Run(record, record.get("folder", "")) for record in records if record["state"] == "done"]
    )
    differences = "\n\n".join(comparison_section(comparisons(series), ENOUGH))
    samples = "\n\n".join(samples_section(written(series)))
    compares = published and (not published.values or any(value_beside(row, published) for row in rows))
    about = [published.about, ""] if published and compares else []
    return "\n".join(
        [
            *[*lines, "", *not_done(missing), *_larger(records), *about, _footer(records, command), ""],
            *([differences, ""] if differences else []),
            *([samples, ""] if samples else []),
            *["![chart](table.png)", ""],
        ]
    )


def not_done(missing: Sequence[str]) -> list[str]:
    """Lines that say which runs no number of the page has in it."""
    return [f"Not done, and in no number here: {'; '.join(missing)}.", ""] if missing else []


def rows_markdown(name: str, rows: list[Row]) -> str:
    """The rows alone, beside what is published for the table of that name."""
    shown = columns(rows, published_for(name))
    lines = [f"| {' | '.join(column.heading for column in shown)} |"]
    lines.append(f"|{'|'.join('---' if column.is_name else '--:' for column in shown)}|")
    return "\n".join(lines + [f"| {' | '.join(column.text(row) for column in shown)} |" for row in rows])


def _title(table: Table, rows: list[Row]) -> str:
    """The table's title, with the protocol of its runs."""
    protocols = {row.protocol for row in rows}
    if len(protocols) > 1:
        return f"{table.title} (several protocols)"
    return f"{table.title} ({protocol})" if (protocol := "".join(protocols)) else table.title


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
        f"{_shared(records)}{_stored(records)}{_protocols(records)}"
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


def _protocols(records: list[dict[str, Any]]) -> str:
    """What the students saw of the training set, where that is not all of it as it is."""
    said = list(dict.fromkeys(record.get("protocol", "") for record in records))
    return f" Protocols: {' | '.join(name or PLAIN for name in said)}." if any(said) else ""


def picture(table: Table, rows: list[Row], path: Path) -> None:
    """Every run as a dot and every mean as a bar, as PNG: the main score, and beside it the recall of each group of
    classes that the protocol has."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    groups = [name for name in GROUPS if any(name in row.groups for row in rows)]
    measures = {f"test {title(rows)} %": [row.scores for row in rows]}
    measures |= {f"recall of {name} classes %": [row.groups.get(name, []) for row in rows] for name in groups}
    size = (7 if len(measures) == 1 else 3 + 3 * len(measures), 0.45 * len(rows) + 1.6)
    figure, axes = plt.subplots(
        1, len(measures), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    shown = [column for column in columns(rows) if column.is_name and len(set(map(column.text, rows))) > 1]
    names = [", ".join(column.text(row) for column in shown) or row.loss for row in rows]
    for panel, (measure, values) in zip(axes[0], measures.items(), strict=True):
        panel.barh(names, [statistics.fmean(scores) if scores else 0.0 for scores in values], color="#b8cbe0")
        for name, scores in zip(names, values, strict=True):
            panel.plot(scores, [name] * len(scores), "o", color="#1f3f66", markersize=4)
        panel.set_xlabel(measure)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    width = int(size[0] * 12)
    figure.suptitle("\n".join(textwrap.wrap(_title(table, rows), width)), x=0.01, ha="left", fontsize=10)
    figure.supxlabel("at the last epoch; bar: mean, dots: seeds", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


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
