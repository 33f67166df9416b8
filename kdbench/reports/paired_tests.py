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
"""The loss that others are compared with by default."""


@dataclass(frozen=True)
class Comparison:
    """Comparison of two series within seeds.

    Attributes:
        family: What both have in common. p values are corrected over all comparisons of one family and measure.
        measure: The score that is compared.
        first: Name of the first series in its family.
        second: Name of the second series.
        result: Statistics of second - first, in points.
        t_holm: p value of the t test, corrected by Holm's method.
        wilcoxon_holm: p value of Wilcoxon's test, corrected by Holm's method.
    """

    family: str
    measure: str
    first: str
    second: str
    result: Paired
    t_holm: float | None = None
    wilcoxon_holm: float | None = None


def comparisons(series: Sequence[Series], against: str = REFERENCE) -> list[Comparison]:
    """Compare losses on one pair, and teachers of one student under one loss, within seeds.

    Only series that share data set, student, protocol and schedule are compared, on the seeds that both have. Teachers
    are compared with every other teacher.

    Args:
        series: The series of a report.
        against: The loss that every other loss is compared with; `all` compares every two. A family without this loss
            is compared with its first.
    """
    results = []
    for family in (*_same_pair(series), *_same_loss(series)):
        for score, measure in family.measures.items():
            pairs = family.pairs(against)
            results += _corrected([one for pair in pairs if (one := family.compare(score, measure, *pair))])
    return results


@dataclass(frozen=True)
class _Family:
    """Series that are compared with each other, by what distinguishes them."""

    title: str
    members: dict[str, Series]
    of_losses: bool

    @property
    def measures(self) -> dict[str, str]:
        """Titles of the scores of the last epoch that are compared, by key."""
        task = next(iter(self.members.values())).task
        return {task.metric: f"last {task.title}", "omitted": "recall of omitted classes"}

    def pairs(self, against: str) -> Iterator[tuple[str, str]]:
        names = list(self.members)
        if against == "all" or not self.of_losses:
            yield from itertools.combinations(names, 2)
            return
        reference = next((name for name in names if self.members[name].loss == against), names[0])
        yield from ((reference, name) for name in names if name != reference)

    def compare(self, score: str, measure: str, first: str, second: str) -> Comparison | None:
        result = paired(*(self.members[name].by_seed(score) for name in (first, second)))
        return None if result is None else Comparison(self.title, measure, first, second, result)


def _same_pair(series: Sequence[Series]) -> list[_Family]:
    groups: dict[str, list[Series]] = {}
    for one in series:
        key = digest([one.pair, setting_key(one.first, "loss", "teacher")])
        groups.setdefault(key, []).append(one)
    return [
        _Family(_title(group[0], group[0].pair.replace(":", " -> ")), _named(group, by_loss=True), True)
        for group in groups.values()
        if len(group) > 1
    ]


def _same_loss(series: Sequence[Series]) -> list[_Family]:
    groups: dict[str, list[Series]] = {}
    for one in series:
        if "teacher" in one.first["hashes"]:  # else no weights of a teacher enter the loss
            key = digest([one.loss, setting_key(one.first, "loss", "teacher")])
            groups.setdefault(key, []).append(one)
    return [
        _Family(_title(group[0], f"{group[0].loss}, student {group[0].student}"), _named(group), False)
        for group in groups.values()
        if len({one.pair for one in group}) > 1
    ]


def _title(series: Series, subject: str) -> str:
    protocol = [series.protocol] if series.protocol else []
    epochs = "1 epoch" if series.epochs == 1 else f"{series.epochs} epochs"
    return ", ".join([subject, series.dataset, *protocol, epochs])


def _named(group: Sequence[Series], by_loss: bool = False) -> dict[str, Series]:
    """Name series by loss or teacher, and where several share it by their setting too."""
    names = [one.loss if by_loss else one.teacher for one in group]
    return {
        name if names.count(name) == 1 else f"{name} ({one.setting or place})": one
        for place, (name, one) in enumerate(zip(names, group, strict=True))
    }


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    t = holm([one.result.t for one in comparisons])
    wilcoxon = holm([one.result.wilcoxon for one in comparisons])
    return [
        replace(one, t_holm=t[place], wilcoxon_holm=wilcoxon[place]) for place, one in enumerate(comparisons)
    ]
