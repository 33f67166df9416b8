"""The rows of a table: runs over seeds, with the protocol they were run under; and its columns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdbench.core.task import TASKS, Task
from kdbench.metrics.classification import GROUPS
from kdbench.reports.compare import Beside, compare
from kdbench.reports.published import Published, Value
from kdbench.reports.read import by_test_set
from kdbench.reports.recipe_diff import departures, variant_epochs
from kdbench.reports.statistics import mean_and_std

PLAIN = "the data as they are"


@dataclass(frozen=True)
class Row:
    """One loss on one pair, data set, variant and protocol over the seeds: the task's main score in per cent, of the
    last epoch, and of the best one where there is one (`best_key`), for each seed.

    groups: the mean recall of each group of classes, for each seed.
    config: of one of its runs, where it is at hand; teacher_epochs: of its training, where the teacher says so.
    """

    pair: str
    loss: str
    scores: list[float]
    agreement: float | None
    """None where there was no teacher."""
    best: list[float]
    seconds: float
    dataset: str = ""
    variant: str = ""
    protocol: str = ""
    groups: dict[str, list[float]] = field(default_factory=dict)
    epochs: int | None = None
    task: Task = TASKS["images"]
    config: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    teacher_epochs: int | None = None

    @property
    def best_key(self) -> str:
        """How the best epoch was chosen: on test where every epoch was tested, else on the validation part."""
        return _selected(self.task)

    @property
    def best_on_test(self) -> list[float]:
        """`best` where it was chosen on test, else nothing."""
        return self.best if self.best_key == "best_on_test" else []

    @property
    def mean(self) -> float:
        """Of the main score at the last epoch."""
        return statistics.fmean(self.scores)


def summarise(records: Sequence[dict[str, Any]]) -> list[Row]:
    """A row for whatever has at least one finished run, in the order of the records, for each set that it is scored on;
    protocols are never mixed."""
    groups: dict[tuple[str, str, str, str, str], list[dict[str, Any]]] = {}
    for record in (part for one in records if one["state"] == "done" for part in by_test_set(one)):
        names = record["names"]
        pair = f"{names['teacher']}:{names['student']}"
        variant, protocol = record.get("variant", ""), record.get("protocol", "")
        key = pair, names["loss"], names.get("dataset", ""), variant, protocol
        groups.setdefault(key, []).append(record)
    return [_row(*key, runs) for key, runs in groups.items()]


def _row(
    pair: str, loss: str, dataset: str, variant: str, protocol: str, runs: Sequence[dict[str, Any]]
) -> Row:
    last = [run["results"]["last"] for run in runs]
    task = TASKS[runs[0].get("task", "images")]
    key = _selected(task)
    best = [run["results"][key][task.metric] for run in runs if key in run["results"]]
    agreement = [row["agreement"] for row in last if "agreement" in row]
    return Row(
        pair,
        loss,
        [row[task.metric] for row in last],
        agreement=statistics.fmean(agreement) if agreement else None,
        best=best,
        task=task,
        seconds=statistics.fmean(run["seconds"] + run.get("stage", {}).get("seconds", 0) for run in runs),
        dataset=dataset,
        variant=variant,
        protocol=protocol,
        epochs=last[0].get("epoch"),
        config=runs[0].get("config"),
        teacher_epochs=(runs[0].get("teacher") or {}).get("epoch"),
        groups={name: [row[name] for row in last] for name in GROUPS if all(name in row for row in last)},
    )


def _selected(task: Task) -> str:
    return "best_on_test" if task.name == "images" else "best_validation"


@dataclass(frozen=True)
class Column:
    """A heading, and what a row has below it."""

    heading: str
    text: Callable[[Row], str]
    is_name: bool = False
    """Aligned to the left: what the row is, not what was measured."""


def columns(rows: Sequence[Row], published: Published | None = None) -> list[Column]:
    """The columns that say something of these rows."""
    protocols = {row.protocol for row in rows}
    settings = {(row.variant, row.dataset, row.protocol) for row in rows}
    shown = [Column("pair", lambda row: row.pair.replace(":", " -> "), is_name=True)]
    if any(row.variant for row in rows) and len(settings) > len(
        protocols
    ):  # else the protocol says which it is
        shown.append(Column("variant", lambda row: row.variant, is_name=True))
    if len(protocols) > 1:
        shown.append(Column("protocol", lambda row: row.protocol or PLAIN, is_name=True))
    if any(len({row.dataset for row in rows if row.variant == one.variant}) > 1 for one in rows):
        shown.append(Column("scored on", lambda row: row.dataset, is_name=True))
    shown.append(Column("loss", lambda row: row.loss, is_name=True))
    shown.append(Column(f"last {title(rows)} %", lambda row: mean_and_std(row.scores)))
    shown.append(Column("n", lambda row: str(len(row.scores))))
    shown += [_of_group(name) for name in GROUPS if any(name in row.groups for row in rows)]
    for key in dict.fromkeys(row.best_key for row in rows if row.best):
        shown.append(Column(f"{key} %", _of_best(key)))
    if published is not None and any(value_beside(row, published) for row in rows):
        shown.append(Column(f"published % ({published.selection})", lambda row: _published(row, published)))
        if any((found := _beside(row, published)) and found.delta is not None for row in rows):
            shown += [
                Column("delta", lambda row: _signed(row, published, "delta", ".2f")),
                Column("z", lambda row: _signed(row, published, "z", ".1f")),
            ]
    if any(row.agreement is not None for row in rows):
        shown.append(Column("agreement %", lambda row: _one_place(row.agreement)))
    shown.append(Column("training s", lambda row: f"{row.seconds:.0f}"))
    return shown


def title(rows: Sequence[Row]) -> str:
    """What the main score of these rows is called."""
    return " or ".join(dict.fromkeys(row.task.title for row in rows))


def _of_best(key: str) -> Callable[[Row], str]:
    return lambda row: f"{statistics.fmean(row.best):.2f}" if row.best and row.best_key == key else ""


def _one_place(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _of_group(name: str) -> Column:
    return Column(f"{name} %", lambda row: mean_and_std(row.groups[name]) if name in row.groups else "")


def value_beside(row: Row, published: Published) -> Value | None:
    """What was published for the row's data set, pair and loss under its protocol, if anything.

    The first images of this copy stand for those of the authors' files; the row says which it has.
    """
    protocol = row.protocol.replace("first-of-this-order", "first")
    of_row = row.dataset, row.pair, row.loss, protocol
    for value in published.values:
        if (value.dataset, value.pair, value.loss, value.protocol) == of_row:
            return value
    return None


def beside(row: Row, value: Value, published: Published) -> Beside:
    """The row against a published value."""
    other = "" if row.config is None else departures(row.config, published.table, row.pair, row.loss)
    if (usual := variant_epochs(row.pair.partition(":")[0])) and row.teacher_epochs not in (None, usual):
        other = "; ".join(filter(None, [f"a teacher of {row.teacher_epochs} epochs, not {usual}", other]))
    every = (row.config or {}).get("evaluate_every", 1)
    if "best" in (value.selection or published.selection) and every != 1:
        other = "; ".join(filter(None, [f"the best of every {every} epochs", other]))
    if row.protocol != value.protocol:
        other = "; ".join(filter(None, [f"other images ({row.protocol})", other]))
    return compare(row.scores, row.best_on_test, row.epochs, value, published, other)


def _beside(row: Row, published: Published) -> Beside | None:
    value = value_beside(row, published)
    return None if value is None else beside(row, value, published)


def _signed(row: Row, published: Published, name: str, form: str) -> str:
    found = _beside(row, published)
    number = getattr(found, name) if found else None
    return format(number, f"+{form}") if number is not None else "-" if found else ""


def _published(row: Row, published: Published) -> str:
    value = value_beside(row, published)
    if value is None:
        return ""
    if row.epochs != published.epochs:
        return f"{value.text}, {published.epochs} epochs"
    other = beside(row, value, published).other
    return f"{value.text}; here {other}" if other else value.text
