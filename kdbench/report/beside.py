"""What stands beside what was measured: the published value of a row, and that of its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config import EXPERIMENTS_DIR
from kdbench.metrics import GROUPS
from kdbench.report.inference import z_score
from kdbench.report.published import Published, Value, published_for
from kdbench.report.rows import value_beside
from kdbench.report.series import Series

SHOWN = ("verified", "derived", "secondary")
"""Numbers from memory are never shown as a reference."""


@dataclass(frozen=True)
class Beside:
    """A published value and what it says of a row. delta, in points, and z are None where `why` says so.

    compared: the accuracy of the row that the value is compared with, `last` or `best_on_test`.
    """

    value: Value
    source: Published
    compared: str
    delta: float | None
    z: float | None
    why: str

    @property
    def selection(self) -> str:
        """How the source chose the epoch."""
        return self.value.selection or self.source.selection


def sources(tables: Sequence[str]) -> list[Published]:
    """All published values at hand, those of `tables` first."""
    others = sorted(file.parent.name for file in EXPERIMENTS_DIR.glob("*/published.yaml"))
    found = [published_for(name) for name in dict.fromkeys([*tables, *others])]
    return [published for published in found if published is not None and published.status in SHOWN]


def beside(series: Series, published: Sequence[Published]) -> Beside | None:
    """The value of the first source that has one for the row's data set, pair, loss and protocol."""
    for source in published:
        if (value := value_beside(series.row, source)) is not None:
            return compare(series, value, source)
    return None


def compare(series: Series, value: Value, source: Published) -> Beside:
    """The difference to a published value, and z, where epochs and weights are the same."""
    selection = value.selection or source.selection
    compared = "best_on_test" if selection.startswith("best") else "last"
    why = _incomparable(series, value, source)
    if why:
        return Beside(value, source, compared, None, None, why)
    values = list(series.scores("top1", compared).values())
    delta = sum(values) / len(values) - value.mean
    z = z_score(values, value.mean, value.std, value.trials)
    return Beside(value, source, compared, delta, z, "" if z is not None else _no_z(values, value))


def _incomparable(series: Series, value: Value, source: Published) -> str:
    if source.status == "secondary":
        return "the number is quoted by others"
    if series.row.epochs != source.epochs:
        return f"{series.row.epochs} epochs here, {source.epochs} there"
    return f"other weights there: {value.weights}" if value.weights else ""


def _no_z(values: Sequence[float], value: Value) -> str:
    if value.std is None or not value.trials or value.trials < 2:
        return "z: no published deviation"
    return "z: one seed here" if len(values) < 2 else "z: no deviation on either side"


@dataclass
class Networks:
    """experiments/networks/DATASET.yaml: accuracies of networks trained on labels alone, in per cent."""

    dataset: str = MISSING
    source: str = MISSING
    status: str = MISSING
    epochs: int = MISSING
    top1: dict[str, float] = field(default_factory=dict)


def networks(dataset: str) -> Networks | None:
    """What is published of networks on a data set, or None; ValueError where the file is not as it should be."""
    file = EXPERIMENTS_DIR / "networks" / f"{dataset}.yaml"
    if not file.is_file():
        return None
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(Networks), OmegaConf.load(file))
        found = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{file}, {error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(found, Networks)
    return found


@dataclass(frozen=True)
class Teacher:
    """A teacher of the report's runs: what it reached, beside the published network of its name.

    published and gap (in points) are None for variants, ensembles and data sets of which nothing is published.
    """

    name: str
    dataset: str
    hash: str
    scores: Mapping[str, Any]
    published: float | None

    @property
    def top1(self) -> float:
        """On the test set, in per cent."""
        return float(self.scores["top1"])

    @property
    def gap(self) -> float | None:
        """Measured less published."""
        return None if self.published is None else self.top1 - self.published

    @property
    def about(self) -> str:
        """The other things that records say of it."""
        said = [f"{name} classes {self.scores[name]:.2f} %" for name in GROUPS if name in self.scores]
        units = {"nll": "NLL on test", "cmi": "CMI on the training images"}
        said += [f"{words} {self.scores[key]:.4f} nats" for key, words in units.items() if key in self.scores]
        said += [f"trained under: {self.scores['protocol']}"] if self.scores.get("protocol") else []
        return "; ".join(said)


def teachers(series: Sequence[Series]) -> list[Teacher]:
    """Every teacher, once for each file of weights."""
    found: dict[tuple[str, str, str], Teacher] = {}
    for one in series:
        for run in one.runs:
            scores, dataset = run.record.get("teacher"), one.row.dataset
            if scores and "top1" in scores:
                published = networks(dataset)
                top1 = published.top1.get(scores["name"]) if published else None
                key = dataset, scores["name"], scores.get("hash") or scores.get("file_hash", "")
                found.setdefault(key, Teacher(scores["name"], dataset, key[2], scores, top1))
    return list(found.values())
