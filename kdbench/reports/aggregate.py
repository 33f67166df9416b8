"""Runs that differ in nothing but their seed, aggregated into one series; a series is one row of a report."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from kdbench.core.class_groups import CLASS_GROUPS
from kdbench.objectives import available
from kdbench.reports.compare import PublishedMatch
from kdbench.reports.read import NotCounted, Record, Run, by_test_set
from kdbench.runs.identity import Flat, flat, recipe_without, series_key
from kdbench.tasks import Task, task_of_record


@dataclass(frozen=True)
class Series:
    """Runs of one data set, teacher (and its weights), student, recipe and protocol over the seeds.

    Scores are in per cent, one per seed.

    Attributes:
        runs: The runs, by seed.
        setting: What distinguishes this series from others of the same pair, loss and protocol.
        notes: What a reader should know: differences between the runs that change at most the last bits or the time,
            and what the student has at test time besides its own parameters.
        published: The published value of this series, if there is one.
    """

    runs: list[Run]
    setting: str = ""
    notes: list[str] = field(default_factory=list)
    published: PublishedMatch | None = None

    @property
    def first(self) -> Record:
        """The first record, for what all runs have in common."""
        return self.runs[0].record

    @property
    def pair(self) -> str:
        """`teacher:student`."""
        return self.runs[0].pair

    @property
    def teacher(self) -> str:
        """Name of the teacher."""
        return str(self.first["names"]["teacher"])

    @property
    def student(self) -> str:
        """Name of the student."""
        return str(self.first["names"]["student"])

    @property
    def loss(self) -> str:
        """Name of the loss."""
        return str(self.first["names"]["loss"])

    @property
    def dataset(self) -> str:
        """Name of the data set whose test set the runs are scored on."""
        return str(self.first["names"].get("dataset", ""))

    @property
    def variant(self) -> str:
        """Name of the table's variant that the runs belong to; empty outside tables."""
        return str(self.first.get("variant", ""))

    @property
    def protocol(self) -> str:
        """The protocol: changes of the training set that the student saw, as words; empty for none."""
        return str(self.first.get("protocol", ""))

    @property
    def label(self) -> str:
        """Protocol and setting in one text."""
        return "; ".join(part for part in (self.protocol, self.setting) if part)

    @property
    def task(self) -> Task[Any]:
        """The task of the runs, with its main metric."""
        return task_of_record(self.first)

    @property
    def epochs(self) -> int | None:
        """Number of the last epoch."""
        epoch = self.first["results"]["last"].get("epoch")
        return None if epoch is None else int(epoch)

    @property
    def scores(self) -> list[float]:
        """The main score at the last epoch."""
        return list(self.by_seed(self.task.metric).values())

    @property
    def mean(self) -> float:
        """Mean of `scores`."""
        return statistics.fmean(self.scores)

    @property
    def best_key(self) -> str:
        """The choice of the best epoch: `best_on_test`, or `best_validation` if only that is recorded."""
        results = self.first["results"]
        return (
            "best_on_test"
            if "best_on_test" in results or "best_validation" not in results
            else "best_validation"
        )

    @property
    def best(self) -> list[float]:
        """The main score at the epoch that `best_key` names."""
        metric = self.task.metric
        scores = (run.record["results"].get(self.best_key, {}) for run in self.runs)
        return [one[metric] for one in scores if metric in one]

    @property
    def best_on_test(self) -> list[float]:
        """`best` where it was chosen on the test set, else nothing."""
        return self.best if self.best_key == "best_on_test" else []

    @property
    def groups(self) -> dict[str, list[float]]:
        """Mean recall of each group of classes that all runs have, at the last epoch."""
        recalls = {name: list(self.by_seed(name).values()) for name in CLASS_GROUPS}
        return {name: values for name, values in recalls.items() if len(values) == len(self.runs)}

    @property
    def agreement(self) -> float | None:
        """Mean agreement with the teacher on test; None without a teacher."""
        values = self.by_seed("agreement").values()
        return statistics.fmean(values) if values else None

    @property
    def seconds(self) -> float:
        """Mean training time, including a first stage of the loss, without start-up and evaluation."""
        return statistics.fmean(run.seconds for run in self.runs)

    def by_seed(self, name: str) -> dict[int, float]:
        """Return a score of the last epoch by seed, for the runs that have it."""
        last = {run.seed: run.record["results"]["last"] for run in self.runs}
        return {seed: scores[name] for seed, scores in last.items() if name in scores}


def gather(runs: Sequence[Run]) -> tuple[list[Series], list[NotCounted]]:
    """Group runs into series, one for each test set that they are scored on, in the order of the runs.

    Returns:
        The series, and the runs left out because another run has the same setting and seed.
    """
    groups: dict[str, list[Run]] = {}
    for run in (Run(record, one.where) for one in runs for record in by_test_set(one.record)):
        groups.setdefault(series_key(run.record), []).append(run)
    series, left = [], []
    for group in groups.values():
        for part in _by_commit(group):
            first_of = {run.seed: run for run in reversed(part)}
            left += [
                NotCounted(run.where, _twice(run, first_of)) for run in part if run is not first_of[run.seed]
            ]
            by_seed = [first_of[seed] for seed in sorted(first_of)]
            series.append(Series(by_seed, notes=_notes([run.record for run in by_seed])))
    return _with_settings(series), left


def in_order(series: Iterable[Series], pairs: Sequence[str] = (), losses: Sequence[str] = ()) -> list[Series]:
    """Sort series by data set, student, teacher, protocol, epochs and loss (`ce` first).

    Pairs and losses that a table lists come first, in the order of the table.
    """

    def rank(name: str, names: Sequence[str]) -> int:
        return names.index(name) if name in names else len(names)

    def key(one: Series) -> tuple[Any, ...]:
        place = rank(one.pair, pairs), one.dataset, one.student, one.teacher, one.protocol, one.epochs or 0
        return *place, rank(one.loss, losses), one.loss != "ce", one.loss

    return sorted(series, key=key)


def _by_commit(group: list[Run]) -> list[list[Run]]:
    """Split a group that has a seed twice by commit: the code of an objective changed between its runs."""
    if len({run.seed for run in group}) == len(group):
        return [group]
    parts: dict[Any, list[Run]] = {}
    for run in group:
        parts.setdefault(run.record.get("commit"), []).append(run)
    return list(parts.values())


def _twice(run: Run, first_of: Mapping[int, Run]) -> str:
    return (
        f"same names and seed as {first_of[run.seed].where}, which is counted, but another recipe; the record does not "
        "tell how they differ"
    )


def _notes(records: Sequence[Record]) -> list[str]:
    notes = [
        f"{name}: {', '.join(values)}"
        for name, values in (
            ("threads differ", _different(record.get("threads") for record in records)),
            ("teacher outputs differ", _different(map(_answers, records))),
            ("times are not comparable", _different(map(_company, records))),
        )
        if len(values) > 1
    ]
    counts = records[0].get("parameters") or {"student": 0, "at_test": 0}
    if counts["at_test"] > counts["student"]:
        notes.append(f"{counts['at_test']:,} parameters at test time, the student has {counts['student']:,}")
    if _uses_several_views(records[0]):
        notes.append("trains on two views")
    if "config" not in records[0]:
        notes.append("configuration not recorded")
    return notes


@cache
def _objectives_of_views() -> frozenset[str]:
    """Names of our objectives that need a second view of each image."""
    return frozenset(entry.name for entry in available() if "views" in entry.needs)


def _uses_several_views(record: Record) -> bool:
    terms = ((record.get("config") or {}).get("loss") or {}).get("objectives") or {}
    targets = [str(term.get("_target_", "")).removeprefix("kdbench.objectives.") for term in terms.values()]
    return not _objectives_of_views().isdisjoint(target.partition(".")[0] for target in targets)


def _different(values: Iterable[Any]) -> list[str]:
    return sorted({str(value) for value in values})


def _answers(record: Record) -> str:
    answers = (record.get("teacher") or {}).get("answers", "live")
    return f"stored ({answers['storage']})" if isinstance(answers, Mapping) else str(answers)


def _company(record: Record) -> str:
    return "trained in a cohort" if record.get("cohort") else "trained alone"


def _with_settings(series: Sequence[Series]) -> list[Series]:
    """Give each series the setting that distinguishes it within its data set, pair, loss and protocol."""
    families: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        families.setdefault((one.dataset, one.pair, one.loss, one.protocol), []).append(one)
    settings: dict[int, str] = {}
    for family in families.values():
        facts = [_facts(one.first) for one in family]
        settings |= {id(one): _distinction(own, facts) for one, own in zip(family, facts, strict=True)}
    return [replace(one, setting=settings[id(one)]) for one in series]


def _facts(record: Record) -> Flat:
    recipe = recipe_without(record)
    facts = flat(recipe) if recipe is not None else {"config": "not recorded"}
    hashes = {name: value[:8] for name, value in record["hashes"].items() if name != "recipe"}
    return {"epochs": str(record["results"]["last"]["epoch"]), **facts, **flat(hashes, "hash")} | {
        "commit": str(record.get("commit"))
    }


MOST_DIFFERENCES = 4
"""Differences named in a row; the HTML page shows all of them."""


def _distinction(own: Flat, family: Sequence[Flat]) -> str:
    names = dict.fromkeys(name for one in family for name in one)
    differing = [name for name in names if len({one.get(name) for one in family}) > 1]
    if len(differing) > 1 and "commit" in differing:  # the commit matters only where nothing else differs
        differing.remove("commit")
    if "epochs" in differing:  # the configuration repeats it
        differing = [name for name in differing if name not in ("epochs_run", "schedule.epochs")]
    differences = [f"{name}={own.get(name, 'none')}" for name in differing]
    more = [f"{len(differences) - MOST_DIFFERENCES} more"] if len(differences) > MOST_DIFFERENCES else []
    return ", ".join([*differences[:MOST_DIFFERENCES], *more])
