"""The LightningModule that trains a teacher: a network on the labels, without a teacher of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.data.base import TaskData
from kdbench.objectives.mcmi import MCMI
from kdbench.tasks import task_of
from kdbench.teachers.store import put
from kdbench.training.evaluation import evaluate
from kdbench.training.module import StudentModule
from kdbench.training.student_run import StudentRun


class TeacherModule(StudentModule):
    """Trains one network on the labels, for the teacher store.

    Args:
        run: The network and its run.
        data: The data, set up.
        seed: See `StudentModule`.
        **settings: Further arguments of `StudentModule`.
    """

    def __init__(self, run: StudentRun, data: TaskData, seed: int, **settings: Any) -> None:
        super().__init__([run], None, data, seed, **settings)

    def on_validation_epoch_end(self) -> None:
        """Add scores on the training split: after the last epoch, and after each for an objective on CMI."""
        super().on_validation_epoch_end()
        student = self.runs[0].student
        on_cmi = [term for term in student.loss.terms.values() if isinstance(term, MCMI)]
        if not (on_cmi or self.is_last_epoch):
            return
        centroids = on_cmi[0].centroids if on_cmi else None
        metric = task_of(self.data).build_training_metric(self.data, centroids)
        if metric is None:
            return
        scores = evaluate(student.model, self.data, "train", self.bf16, metric=metric)
        student.progress.curve[-1] |= {f"training/{key}": value for key, value in scores.items()}


def store(run: StudentRun, record: dict[str, Any], replace: bool = False) -> Path:
    """Put a trained network into the teacher store, with a card made from the record of its run.

    The card has the accuracies and the cross-entropy on test, and the CMI on the training images.

    Args:
        run: The finished run.
        record: Its record.
        replace: Replace another network of the same name.

    Raises:
        ValueError: The store has another network of this name.
    """
    student, about = run.student, run.about
    last, curve = record["results"]["last"], record["results"]["curve"]
    scores = {key: last[key] for key in ("epoch", student.task.metric, "top5", "nll") if key in last}
    cmi = {"cmi": curve[-1]["training/cmi"]} if "training/cmi" in curve[-1] else {}
    keys = ("seed", "config", "hashes", "versions", "commit", "machine", "threads", "started", "seconds")
    card = {**about, **scores, **cmi, **{key: record[key] for key in keys}}
    return put(student.model, about["label_space"], about["teacher"], card, replace)
