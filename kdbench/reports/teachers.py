"""The teachers of a report's runs, next to the published networks of their names."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.core.class_groups import describe_groups
from kdbench.reports.aggregate import Series
from kdbench.reports.published import networks
from kdbench.reports.read import SCORED_ON, Record
from kdbench.reports.statistics import mean_and_std
from kdbench.runs.identity import RUN
from kdbench.tasks import Task, task_of_record


@dataclass(frozen=True)
class Teacher:
    """A teacher of a report's runs.

    In a chain the teacher differs by seed; these teachers count as one with several weights.

    Attributes:
        name: Name of the teacher.
        dataset: Data set of the runs.
        task: Their task.
        records: The `teacher` section of one record for each of its weights.
        published: Published accuracy of the network of this name, in per cent; None for variants, ensembles and data
            sets without published networks.
        published_epochs: Number of epochs that the published network was trained for.
    """

    name: str
    dataset: str
    task: Task[Any]
    records: list[Record]
    published: float | None = None
    published_epochs: int | None = None

    @property
    def scores(self) -> list[float]:
        """Main score on the test set for each of its weights, in per cent."""
        return [float(record[self.task.metric]) for record in self.records]

    @property
    def score(self) -> float:
        """Mean of `scores`."""
        return statistics.fmean(self.scores)

    @property
    def gap(self) -> float | None:
        """Measured minus published accuracy, in points."""
        return None if self.published is None else self.score - self.published

    @property
    def weights(self) -> str:
        """Start of the hash of its weights, or how many there are."""
        if len(self.records) > 1:
            return f"{len(self.records)} networks"
        return str(self.records[0].get("hash") or self.records[0].get("file_hash") or "")[:8]

    @property
    def measures(self) -> list[str]:
        """Scores besides the main one."""
        first = self.records[0]
        if len(self.records) > 1:
            return [f"one for each seed: {mean_and_std(self.scores)}"]
        labels = {"nll": "cross-entropy on test", "cmi": "CMI on the training images"}
        groups = describe_groups(first).removeprefix(", ")
        nats = [f"{label} {first[key]:.4f} nats" for key, label in labels.items() if key in first]
        return [*([groups] if groups else []), *nats]

    @property
    def training(self) -> list[str]:
        """A description of its training."""
        first = self.records[0]
        epochs = [f"{first['epoch']} epochs"] if "epoch" in first else []
        return [*epochs, *([f"trained under: {first['protocol']}"] if first.get("protocol") else [])]

    @property
    def origin(self) -> str:
        """The loss and network that it was trained as, where it is a run's student; else empty."""
        return str(self.records[0].get("taught", ""))

    @property
    def sentence(self) -> str:
        """The teacher in one line of text."""
        origin = f" ({self.origin})" if self.origin else ""
        parts = [", ".join([f"{self.score:.2f} % test {self.task.title}", *self.measures]), *self.training]
        if self.gap is not None:
            parts.append(
                f"published {self.published:.2f} % after {self.published_epochs} epochs, here {self.gap:+.2f}"
            )
        return f"Teacher {self.name}{origin}: {'; '.join(parts)}."


def teachers_of(series: Sequence[Series]) -> list[Teacher]:
    """Return every teacher once for its weights, in the order of the series."""
    by_weights: dict[tuple[str, str, str], dict[str, Record]] = {}
    tasks: dict[tuple[str, str, str], Any] = {}
    for one in series:
        for run in one.runs:
            record, task = run.record.get("teacher"), task_of_record(run.record)
            if not record or task.metric not in record or SCORED_ON in run.record:
                continue
            weights = str(record.get("hash") or record.get("file_hash", ""))
            key = one.dataset, str(record["name"]), "" if f"@{RUN}" in record["name"] else weights
            by_weights.setdefault(key, {}).setdefault(weights, record)
            tasks[key] = task
    return [
        _teacher(key[1], key[0], tasks[key], list(records.values())) for key, records in by_weights.items()
    ]


def _teacher(name: str, dataset: str, task: Task[Any], records: list[Record]) -> Teacher:
    published = networks(dataset)
    if published is None or name not in published.top1:
        return Teacher(name, dataset, task, records)
    return Teacher(name, dataset, task, records, published.top1[name], published.epochs)
