"""The LightningModule that trains a teacher: a network on the labels, with nobody answering for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.data.module import ImageData
from kdbench.student.module import StudentModule
from kdbench.student.student import Student
from kdbench.teacher.store import put


class TeacherModule(StudentModule):
    """One network, trained as a student without a teacher, to be put into the teacher store when it is done."""

    def __init__(self, network: Student, data: ImageData, seed: int, **settings: Any) -> None:
        super().__init__([network], None, data, seed, **settings)


def store(network: Student, record: dict[str, Any]) -> Path:
    """Put a trained network into the store, with a card made from the record of its run."""
    last, about = record["results"]["last"], network.about
    kept = ("seed", "config", "hashes", "versions", "commit", "machine", "threads", "started", "seconds")
    card = {**about, "epoch": last["epoch"], "top1": last["top1"], "top5": last["top5"]}
    card |= {key: record[key] for key in kept}
    return put(network.model, about["label_space"], about["model"], card)
