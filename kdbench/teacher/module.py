"""The LightningModule that trains a teacher: a network on the labels, with nobody answering for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.data.module import ImageData
from kdbench.schedule import Schedule
from kdbench.student.module import StudentModule
from kdbench.student.student import Student
from kdbench.teacher.store import put


class TeacherModule(StudentModule):
    """One network, trained as a student without a teacher, and put into the teacher store when it is done."""

    def __init__(
        self, network: Student, data: ImageData, schedule: Schedule, seed: int, **settings: Any
    ) -> None:
        super().__init__({network.name: network}, None, data, schedule, seed, **settings)

    def store(self, record: dict[str, Any]) -> Path:
        """Put the trained network into the store, with a card made from the record of its run."""
        (network,) = self.runs.values()
        last = record["results"]["last"]
        kept = ("seed", "config", "hashes", "versions", "commit", "machine", "threads", "started", "seconds")
        card = {**network.about, "epoch": last["epoch"], "top1": last["top1"], "top5": last["top5"]}
        card |= {key: record[key] for key in kept}
        return put(network.model, self.data.label_space, network.name, card)
