"""Runs that differ in nothing but their seed, as one row of a report; what tells the rows apart is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from kdbench.objectives import available
from kdbench.reports.read import NotCounted, Record, Run, by_test_set
from kdbench.reports.rows import Row, summarise
from kdbench.runs.identity import Flat, flat, recipe_without, sibling_key


@dataclass(frozen=True)
class Series:
    """Runs of one data set, teacher (its weights too), student, recipe and protocol over the seeds.

    setting: protocol, and what else tells it from other rows of its pair and loss. notes: what its runs differ in that
    changes no more than last bits or time, and what they have at test time beyond the student.
    """

    runs: list[Run]
    row: Row
    setting: str = ""
    notes: list[str] = field(default_factory=list)

    def scores(self, name: str) -> dict[int, float]:
        """A score of the last epoch by seed, of the runs that have it."""
        found = {run.seed: run.record["results"]["last"] for run in self.runs}
        return {seed: scores[name] for seed, scores in found.items() if name in scores}

    @property
    def first(self) -> Record:
        """A record to read from what all runs of the series have in common."""
        return self.runs[0].record


def gather(runs: Sequence[Run]) -> tuple[list[Series], list[NotCounted]]:
    """The rows of a report, for each set that runs are scored on, and what would be the same seed of a row twice."""
    groups: dict[str, list[Run]] = {}
    for run in (Run(record, one.where) for one in runs for record in by_test_set(one.record)):
        groups.setdefault(sibling_key(run.record), []).append(run)
    series, left = [], []
    for group in groups.values():
        for part in _by_commit(group):
            kept = {run.seed: run for run in reversed(part)}
            left += [NotCounted(run.where, _twice(run, kept)) for run in part if run is not kept[run.seed]]
            series.append(_series([kept[seed] for seed in sorted(kept)]))
    return _told_apart(sorted(series, key=_place)), left


def _by_commit(group: list[Run]) -> list[list[Run]]:
    """One configuration with a seed twice is of two versions of an objective: never in one row."""
    if len({run.seed for run in group}) == len(group):
        return [group]
    parts: dict[Any, list[Run]] = {}
    for run in group:
        parts.setdefault(run.record.get("commit"), []).append(run)
    return list(parts.values())


def _twice(run: Run, kept: Mapping[int, Run]) -> str:
    return (
        f"another recipe than {kept[run.seed].where}, which is counted, with the same names and seed; nothing in the "
        "record says in what they differ"
    )


def _series(runs: list[Run]) -> Series:
    (row,) = summarise([{**run.record, "variant": ""} for run in runs])
    return Series(runs, row, row.protocol, _notes([run.record for run in runs]))


def _place(series: Series) -> tuple[Any, ...]:
    row = series.row
    teacher, _, student = row.pair.partition(":")
    return row.dataset, student, teacher, row.protocol, row.epochs, row.loss != "ce", row.loss


def _notes(records: Sequence[Record]) -> list[str]:
    """What stands beside a row in words."""
    notes = [
        f"{name}: {', '.join(values)}"
        for name, values in (
            ("threads differ", _different(record.get("threads") for record in records)),
            ("the teacher's answers differ", _different(map(_answers, records))),
            ("times differ in kind", _different(map(_shared, records))),
        )
        if len(values) > 1
    ]
    counts = records[0].get("parameters") or {"student": 0, "at_test": 0}
    if counts["at_test"] > counts["student"]:
        notes.append(f"answers with {counts['at_test']:,} parameters, the student has {counts['student']:,}")
    if _several_views(records[0]):
        notes.append("trains on two views")
    if "config" not in records[0]:
        notes.append("its configuration is not at hand")
    return notes


@cache
def _with_views() -> frozenset[str]:
    """The objectives of ours that ask for a second view of each image."""
    return frozenset(entry.name for entry in available() if "views" in entry.needs)


def _several_views(record: Record) -> bool:
    terms = ((record.get("config") or {}).get("loss") or {}).get("objectives") or {}
    targets = [str(term.get("_target_", "")).removeprefix("kdbench.objectives.") for term in terms.values()]
    return not _with_views().isdisjoint(target.partition(".")[0] for target in targets)


def _different(values: Iterable[Any]) -> list[str]:
    return sorted({str(value) for value in values})


def _answers(record: Record) -> str:
    answers = (record.get("teacher") or {}).get("answers", "live")
    return f"stored ({answers['storage']})" if isinstance(answers, Mapping) else str(answers)


def _shared(record: Record) -> str:
    return "in a cohort" if record.get("cohort") else "alone"


def _told_apart(series: Sequence[Series]) -> list[Series]:
    """The same, each with what it has that others of its pair, loss and protocol have not."""
    families: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        families.setdefault((one.row.dataset, one.row.pair, one.row.loss, one.row.protocol), []).append(one)
    said: dict[int, str] = {}
    for family in families.values():
        flats = [_facts(one.first) for one in family]
        for one, facts in zip(family, flats, strict=True):
            said[id(one)] = _own(facts, flats)
    return [
        replace(one, setting="; ".join(part for part in (one.setting, said[id(one)]) if part))
        for one in series
    ]


def _facts(record: Record) -> Flat:
    recipe = recipe_without(record)
    facts = flat(recipe) if recipe is not None else {"config": "not at hand"}
    hashes = {name: value[:8] for name, value in record["hashes"].items() if name not in ("recipe",)}
    return {"epochs": str(record["results"]["last"]["epoch"]), **facts, **flat(hashes, "hash")} | {
        "commit": str(record.get("commit"))
    }


MOST = 4
"""Differences that are named in a row; the page has all of them."""


def _own(facts: Flat, family: Sequence[Flat]) -> str:
    names = dict.fromkeys(name for one in family for name in one)
    differing = [name for name in names if len({one.get(name) for one in family}) > 1]
    if len(differing) > 1 and "commit" in differing:  # which says something only where nothing else does
        differing.remove("commit")
    if "epochs" in differing:  # said once
        differing = [name for name in differing if name not in ("epochs_run", "schedule.epochs")]
    words = [f"{name}={facts.get(name, 'none')}" for name in differing]
    more = [f"{len(words) - MOST} more"] if len(words) > MOST else []
    return ", ".join([*words[:MOST], *more])
