"""The teacher's answers to a batch, for students that may have different sources of them."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.core.types import Batch, Outputs
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.teachers.cache.topk import TopKTeacher
from kdbench.teachers.live import LiveTeacher
from kdbench.training.student import Student

Source = CachedTeacher | TopKTeacher | LiveTeacher


def teacher_answers(
    batch: Batch, students: Sequence[Student], live: LiveTeacher | None
) -> dict[Student, Outputs]:
    """Return the teacher's outputs for each student whose loss needs them.

    Each source answers once, with the features that its students need together.

    Args:
        batch: The batch.
        students: The students of a cohort.
        live: The live teacher, for students without a source of their own.
    """
    sources: dict[Student, Source] = {
        student: source
        for student in students
        if student.loss.needs_teacher and (source := student.answers or live) is not None
    }
    answers: dict[Source, Outputs] = {}
    for source in set(sources.values()):
        losses = [student.loss for student, own in sources.items() if own is source]
        answers[source] = source(
            batch, tuple(dict.fromkeys(name for loss in losses for name in loss.teacher_features))
        )
    return {student: answers[source] for student, source in sources.items()}
