"""What stands beside what was measured: the published value of a row, and that of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.metrics.classification import GROUPS
from kdbench.reports.aggregate import Series
from kdbench.reports.compare import Beside
from kdbench.reports.published import Published, networks, published_for
from kdbench.reports.read import task_of
from kdbench.reports.rows import beside as against
from kdbench.reports.rows import value_beside
from kdbench.utils.paths import EXPERIMENTS_DIR


def sources(tables: Sequence[str]) -> list[Published]:
    """All published values at hand: those of `tables` first, then of sources with deviations, then of those without."""
    others = sorted(file.parent.name for file in EXPERIMENTS_DIR.glob("*/published.yaml"))
    read = {name: published_for(name) for name in dict.fromkeys([*tables, *others])}
    found = {name: one for name, one in read.items() if one is not None}
    last = {
        name: name not in tables and all(value.std is None for value in found[name].values) for name in found
    }
    order = sorted(found, key=lambda name: last[name])  # equals stay in their order
    return [found[name] for name in order]


def beside(series: Series, published: Sequence[Published]) -> Beside | None:
    """The value of the first source that has one for the row's data set, pair, loss and protocol."""
    for source in published:
        if (value := value_beside(series.row, source)) is not None:
            return against(series.row, value, source)
    return None


@dataclass(frozen=True)
class Teacher:
    """A teacher of the report's runs: what it reached, beside the published network of its name.

    published and gap (in points) are None for variants, ensembles and data sets of which nothing is published.
    """

    name: str
    dataset: str
    hash: str
    metric: str
    scores: Mapping[str, Any]
    published: float | None

    @property
    def score(self) -> float:
        """The task's main score on the test set, in per cent."""
        return float(self.scores[self.metric])

    @property
    def gap(self) -> float | None:
        """Measured less published."""
        return None if self.published is None else self.score - self.published

    @property
    def about(self) -> str:
        """The other things that records say of it."""
        said = [f"{name} classes {self.scores[name]:.2f} %" for name in GROUPS if name in self.scores]
        units = {"nll": "NLL on test", "cmi": "CMI on the training images"}
        said += [f"{words} {self.scores[key]:.4f} nats" for key, words in units.items() if key in self.scores]
        said += [f"trained under: {self.scores['protocol']}"] if self.scores.get("protocol") else []
        return "; ".join(said)


def teachers(series: Sequence[Series]) -> list[Teacher]:
    """Every teacher, once for its weights."""
    found: dict[tuple[str, str, str], Teacher] = {}
    for one in series:
        for run in one.runs:
            scores = run.record.get("teacher")
            metric = task_of(run.record).metric
            if scores and metric in scores:
                key = one.row.dataset, scores["name"], scores.get("hash") or scores.get("file_hash", "")
                if key not in found:
                    found[key] = _teacher(*key, metric, scores)
    return list(found.values())


def _teacher(dataset: str, name: str, weights: str, metric: str, scores: Mapping[str, Any]) -> Teacher:
    published = networks(dataset)
    return Teacher(name, dataset, weights, metric, scores, published.top1.get(name) if published else None)
