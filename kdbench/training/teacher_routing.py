"""Who answers a batch for the teacher, for students that may have different sources."""

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
    """What the teacher says to each student that asks: each source is asked once, for all that is wanted of it."""
    sources: dict[Student, Source] = {
        student: source
        for student in students
        if student.loss.needs_teacher and (source := student.stored or live) is not None
    }
    answers: dict[Source, Outputs] = {}
    for source in set(sources.values()):
        losses = [student.loss for student, own in sources.items() if own is source]
        answers[source] = source(
            batch, tuple(dict.fromkeys(name for loss in losses for name in loss.teacher_features))
        )
    return {student: answers[source] for student, source in sources.items()}
