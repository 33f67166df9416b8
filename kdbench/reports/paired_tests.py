"""Paired comparisons within seeds: losses on one pair, and teachers of one student under one loss."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kdbench.reports.aggregate import Series
from kdbench.reports.statistics import Paired, holm, paired
from kdbench.runs.identity import setting_key
from kdbench.utils.hashing import digest

REFERENCE = "ce"
"""The loss that others are compared with, unless told."""


@dataclass(frozen=True)
class Comparison:
    """`second` less `first` within seeds, in points; the p values corrected over the family by Holm's method.

    family: what both have in common; all comparisons of one family and measure are corrected together.
    """

    family: str
    measure: str
    first: str
    second: str
    result: Paired
    t_holm: float | None = None
    wilcoxon_holm: float | None = None


def comparisons(series: Sequence[Series], against: str = REFERENCE) -> list[Comparison]:
    """Every loss with `against` (`all`: with every other; where it is not there, with the first), and every teacher
    with every other.

    Only what shares data set, student, protocol and schedule is compared, on the seeds that both have.
    """
    made = []
    for family in (*_same_pair(series), *_same_loss(series)):
        for score, measure in family.measures.items():
            found = [one for pair in family.pairs(against) if (one := family.compare(score, measure, *pair))]
            made += _corrected(found)
    return made


@dataclass(frozen=True)
class _Family:
    title: str
    members: dict[str, Series]
    of_losses: bool

    @property
    def measures(self) -> dict[str, str]:
        """The scores that are compared, at the last epoch, and what they are called."""
        task = next(iter(self.members.values())).row.task
        return {task.metric: f"last {task.title}", "omitted": "recall of omitted classes"}

    def pairs(self, against: str) -> Iterator[tuple[str, str]]:
        names = list(self.members)
        if against == "all" or not self.of_losses:
            yield from itertools.combinations(names, 2)
            return
        reference = next((name for name in names if self.members[name].row.loss == against), names[0])
        yield from ((reference, name) for name in names if name != reference)

    def compare(self, score: str, measure: str, first: str, second: str) -> Comparison | None:
        result = paired(*(self.members[name].scores(score) for name in (first, second)))
        return None if result is None else Comparison(self.title, measure, first, second, result)


def _same_pair(series: Sequence[Series]) -> list[_Family]:
    groups: dict[str, list[Series]] = {}
    for one in series:
        key = digest([one.row.pair, setting_key(one.first, "loss", "teacher")])
        groups.setdefault(key, []).append(one)
    return [
        _Family(_title(group[0], group[0].row.pair.replace(":", " -> ")), _named(group, by_loss=True), True)
        for group in groups.values()
        if len(group) > 1
    ]


def _same_loss(series: Sequence[Series]) -> list[_Family]:
    groups: dict[str, list[Series]] = {}
    for one in series:
        if "teacher" in one.first["hashes"]:  # without one in its weights, there is nothing to compare
            key = digest([one.row.loss, setting_key(one.first, "loss", "teacher")])
            groups.setdefault(key, []).append(one)
    return [
        _Family(_title(group[0], f"{group[0].row.loss}, student {_student(group[0])}"), _named(group), False)
        for group in groups.values()
        if len({one.row.pair for one in group}) > 1
    ]


def _student(series: Series) -> str:
    return series.row.pair.partition(":")[2]


def _title(series: Series, words: str) -> str:
    protocol = [series.row.protocol] if series.row.protocol else []
    epochs = "1 epoch" if series.row.epochs == 1 else f"{series.row.epochs} epochs"
    return ", ".join([words, series.row.dataset, *protocol, epochs])


def _named(group: Sequence[Series], by_loss: bool = False) -> dict[str, Series]:
    """The members by loss or teacher, and where several have the same by their setting too."""
    names = [one.row.loss if by_loss else one.row.pair.partition(":")[0] for one in group]
    return {
        name if names.count(name) == 1 else f"{name} ({one.setting or place})": one
        for place, (name, one) in enumerate(zip(names, group, strict=True))
    }


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    t = holm([one.result.t for one in found])
    wilcoxon = holm([one.result.wilcoxon for one in found])
    return [replace(one, t_holm=t[place], wilcoxon_holm=wilcoxon[place]) for place, one in enumerate(found)]
