"""The LightningModule that trains a teacher: a network on the labels, with nobody answering for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.data.base import TaskData
from kdbench.objectives.mcmi import MCMI
from kdbench.tasks import task_of
from kdbench.teachers.store import put
from kdbench.training.evaluation import evaluate
from kdbench.training.module import StudentModule
from kdbench.training.student import Student


class TeacherModule(StudentModule):
    """One network, trained as a student without a teacher, to be put into the teacher store when it is done."""

    def __init__(self, network: Student, data: TaskData, seed: int, **settings: Any) -> None:
        super().__init__([network], None, data, seed, **settings)

    def on_validation_epoch_end(self) -> None:
        """Add the task's scores on the training split after the last epoch; for an objective on CMI after each."""
        super().on_validation_epoch_end()
        (network,) = self.runs
        watched = [term for term in network.loss.terms.values() if isinstance(term, MCMI)]
        if not (watched or self.is_last_epoch):
            return
        fixed = watched[0].centroids if watched else None
        metric = task_of(self.data).build_training_metric(self.data, fixed)
        if metric is None:
            return
        seen = evaluate(network.model, self.data, "train", self.bf16, metric=metric)
        network.progress.curve[-1] |= {f"training/{key}": value for key, value in seen.items()}


def store(network: Student, record: dict[str, Any], replace: bool = False) -> Path:
    """Put a trained network into the store, with a card made from the record of its run. replace: also where the store
    has another of its name.

    The card has the accuracies and the cross-entropy on test, and the CMI on the training images.
    """
    last, curve, about = record["results"]["last"], record["results"]["curve"], network.about
    kept = ("seed", "config", "hashes", "versions", "commit", "machine", "threads", "started", "seconds")
    card = {
        **about,
        **{key: last[key] for key in ("epoch", network.task.metric, "top5", "nll") if key in last},
    }
    card |= {"cmi": curve[-1]["training/cmi"]} if "training/cmi" in curve[-1] else {}
    card |= {key: record[key] for key in kept}
    return put(network.model, about["label_space"], about["teacher"], card, replace)
