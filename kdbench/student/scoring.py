"""The scores of students, and of their teacher, on the splits of a data set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.core import Batch
from kdbench.data.base import TaskData
from kdbench.data.chunks import EvalChunk
from kdbench.metrics import Meter
from kdbench.models import answer_batch
from kdbench.student.student import Student
from kdbench.teacher.live import LiveTeacher


class Scoring(nn.Module):
    """A meter for every student on every split that is scored. The teacher is asked once about images, as its answers
    never change; about texts once for all students that look at the same, as those answers are too many to be kept."""

    def __init__(
        self, students: Sequence[Student], teacher: LiveTeacher | None, data: TaskData, bf16: bool
    ) -> None:
        super().__init__()
        self.data, self.bf16 = data, bf16
        self._teacher = [teacher]  # not a submodule: it is the training module's
        places = list(itertools.product(students, (*data.eval_splits, *data.final_splits)))
        self.meters = nn.ModuleList(data.meter(split) for _, split in places)
        self._place = {key: number for number, key in enumerate(places)}
        self._remembered: dict[tuple[object, ...], Tensor] = {}

    def meter(self, student: Student, split: str) -> Meter:
        """What gathers the scores of a student on a split."""
        meter = self.meters[self._place[student, split]]
        assert isinstance(meter, Meter)
        return meter

    def look(self, students: Sequence[Student], chunk: EvalChunk) -> None:
        """Score students on a chunk of a split."""
        batch = self.data.eval_batch(chunk.split, chunk.start, chunk.stop)
        for student in students:
            if not student.loss.needs_student:
                continue
            seen = student.seen(batch, scored=True)
            with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.bf16):
                answer = answer_batch(student.model, seen, student.loss.student_taps)
            logits, teacher = student.loss.predict(answer), self._teacher_logits(chunk, seen)
            self.meter(student, chunk.split).look(student.model, student.seen(batch), logits, teacher)
        if batch.texts:
            self.forget()

    @torch.no_grad()
    def finally_on(self, student: Student, split: str) -> dict[str, float]:
        """The scores of a student, as it is, on a whole split."""
        student.eval()
        for chunk in self.data.eval_chunks(split):
            self.look([student], chunk)
        return self.meter(student, split).compute()

    @torch.no_grad()
    def of_teacher(self, split: str) -> dict[str, float]:
        """The teacher's own scores on a split."""
        (teacher,) = self._teacher
        if teacher is None:
            return {}
        meter = self.data.meter(split).to(self.data.device)
        for chunk in self.data.eval_chunks(split):
            batch = self.data.eval_batch(chunk.split, chunk.start, chunk.stop)
            logits = self._teacher_logits(chunk, batch)
            if logits is not None:
                meter.look(teacher.model, batch, logits)
        return meter.compute()

    def forget(self) -> None:
        """Let the teacher's answers go."""
        self._remembered.clear()

    def _teacher_logits(self, chunk: EvalChunk, batch: Batch) -> Tensor | None:
        """The teacher's logits [N, C] on a chunk of a split."""
        (teacher,) = self._teacher
        if teacher is None:
            return None
        key = chunk.split, chunk.start, *batch.texts
        if key not in self._remembered:
            self._remembered[key] = teacher(batch).logits.float()
        return self._remembered[key]
