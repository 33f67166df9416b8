"""The page of one table: title, rows, teachers, and picture."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdbench.core.task import TASKS
from kdbench.metrics.classification import GROUPS, in_groups
from kdbench.reports.aggregate import gather
from kdbench.reports.export import ENOUGH, comparison_section
from kdbench.reports.paired_tests import comparisons
from kdbench.reports.published import networks, published_for
from kdbench.reports.read import Run
from kdbench.reports.rows import PLAIN, Row, columns, summarise, title, value_beside
from kdbench.reports.samples import samples_section, written
from kdbench.reports.statistics import mean_and_std
from kdbench.tables.grid import Table


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


def teacher_lines(records: list[dict[str, Any]]) -> list[str]:
    """A line for each teacher of the finished runs."""
    named: dict[str, dict[Any, dict[str, Any]]] = {}
    for record in records:
        if record["state"] == "done" and "teacher" in record:
            named.setdefault(record["teacher"]["name"], {})[record["teacher"].get("hash")] = record
    return [_teacher(name, list(known.values())) for name, known in named.items()]


def _teacher(name: str, records: list[dict[str, Any]]) -> str:
    """What is known of a teacher; in a chain it is another one for each seed."""
    teacher, task = records[0]["teacher"], TASKS[records[0].get("task", "images")]
    scores = [record["teacher"][task.metric] for record in records]
    taught = f" ({teacher['taught']})" if "taught" in teacher else ""
    if len(scores) > 1:
        known = f" (one for each seed: {mean_and_std(scores)})"
    else:
        known = f"{in_groups(teacher)}{_spread(teacher)}"
    known += f"; {teacher['epoch']} epochs" if "epoch" in teacher else ""
    known += _gap(name, records[0]["names"].get("dataset", ""), statistics.fmean(scores))
    protocol = f"; trained under: {teacher['protocol']}" if teacher.get("protocol") else ""
    return f"Teacher {name}{taught}: {statistics.fmean(scores):.2f} % test {task.title}{known}{protocol}."


def _gap(name: str, dataset: str, score: float) -> str:
    """What is published of the network of this name, and how far that is from this one."""
    known = networks(dataset)
    if known is None or name not in known.top1:
        return ""
    there = known.top1[name]
    return f"; published {there:.2f} % after {known.epochs} epochs, here {score - there:+.2f}"


def _spread(teacher: dict[str, Any]) -> str:
    """Cross-entropy and CMI, of teachers that kdbench has trained."""
    said = {"nll": "cross-entropy on test", "cmi": "CMI on the training images"}
    return "".join(f", {words} {teacher[key]:.4f} nats" for key, words in said.items() if key in teacher)
