"""Score networks on the splits of a data set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch
from kdbench.data.base import TaskData
from kdbench.data.positions import EvalChunk
from kdbench.metrics.base import Metric
from kdbench.models.features import answer_batch
from kdbench.tasks import task_of
from kdbench.teachers.live import LiveTeacher
from kdbench.training.student import Student


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: TaskData,
    split: str,
    bf16: bool = False,
    view: str | None = None,
    metric: Metric | None = None,
) -> dict[str, float]:
    """Return the scores of a network on a split. The network is left in eval mode.

    Args:
        model: The network, on the device of the data.
        data: The data set, set up.
        split: The split.
        bf16: Whether the network runs under bfloat16 autocast.
        view: The view of texts that is scored; None for the default of the task.
        metric: The metric; None for the one of the task.
    """
    model.eval()
    metric = (metric or task_of(data).build_metric(data, split)).to(data.device)
    for chunk in data.eval_chunks(split):
        batch = data.eval_batch(chunk.split, chunk.start, chunk.stop)
        if view is not None:
            batch = replace(batch, texts={view: batch.texts[view]})
        with torch.autocast(data.device.type, torch.bfloat16, enabled=bf16):
            logits = answer_batch(model, batch).logits
        metric.update(model, batch, logits.float())
    return metric.compute()


class Scoring(nn.Module):
    """The metrics of all students of a cohort, on every split that is scored.

    The teacher answers each chunk of images once and its logits are kept, as they never change. Of texts it answers
    once per chunk for all students that read the same view; those logits are too large to be kept.
    """

    def __init__(
        self, students: Sequence[Student], teacher: LiveTeacher | None, data: TaskData, bf16: bool
    ) -> None:
        super().__init__()
        self.data, self.bf16 = data, bf16
        self._teacher = [teacher]  # in a list, because it is a submodule of the training module already
        keys = list(itertools.product(students, (*data.eval_splits, *data.final_splits)))
        self.metrics = nn.ModuleList(task_of(data).build_metric(data, split) for _, split in keys)
        self._number = {key: number for number, key in enumerate(keys)}
        self._teacher_logits: dict[tuple[object, ...], Tensor] = {}

    def metric(self, student: Student, split: str) -> Metric:
        """Return the metric of a student on a split."""
        metric = self.metrics[self._number[student, split]]
        assert isinstance(metric, Metric)
        return metric

    def update(self, students: Sequence[Student], chunk: EvalChunk) -> None:
        """Score students on a chunk of a split."""
        batch = self.data.eval_batch(chunk.split, chunk.start, chunk.stop)
        for student in students:
            if not student.loss.needs_student:
                continue
            selected = student.select_views(batch, scored=True)
            with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.bf16):
                outputs = answer_batch(student.model, selected, student.loss.student_features)
            logits, teacher = student.loss.predict(outputs), self._answers(chunk, selected)
            views = student.select_views(batch)
            self.metric(student, chunk.split).update(student.model, views, logits, teacher)
        if batch.texts:
            self.clear()

    @torch.no_grad()
    def score(self, student: Student, split: str) -> dict[str, float]:
        """Return the scores of a student on a whole split; it is left in eval mode."""
        student.eval()
        for chunk in self.data.eval_chunks(split):
            self.update([student], chunk)
        return self.metric(student, split).compute()

    @torch.no_grad()
    def score_teacher(self, split: str) -> dict[str, float]:
        """Return the teacher's own scores on a split; empty without a teacher."""
        (teacher,) = self._teacher
        if teacher is None:
            return {}
        metric = task_of(self.data).build_metric(self.data, split).to(self.data.device)
        for chunk in self.data.eval_chunks(split):
            batch = self.data.eval_batch(chunk.split, chunk.start, chunk.stop)
            logits = self._answers(chunk, batch)
            if logits is not None:
                metric.update(teacher.model, batch, logits)
        return metric.compute()

    def clear(self) -> None:
        """Release the teacher's logits."""
        self._teacher_logits.clear()

    def _answers(self, chunk: EvalChunk, batch: Batch) -> Tensor | None:
        """Return the teacher's logits [N, C] on a chunk of a split, or None without a teacher."""
        (teacher,) = self._teacher
        if teacher is None:
            return None
        key = chunk.split, chunk.start, *batch.texts
        if key not in self._teacher_logits:
            self._teacher_logits[key] = teacher(batch).logits.float()
        return self._teacher_logits[key]
