"""Who answers a batch for the teacher, for students that may have different sources."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.core.logits import TopK
from kdbench.core.types import Batch, Outputs
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.teachers.cache.topk import LikeliestTeacher
from kdbench.teachers.live import LiveTeacher
from kdbench.training.student import Student

Source = CachedTeacher | LikeliestTeacher | LiveTeacher
Answer = Outputs | TopK


def teacher_answers(
    batch: Batch, students: Sequence[Student], live: LiveTeacher | None
) -> dict[Student, Answer]:
    """What the teacher says to each student that asks: each source is asked once, for all that is wanted of it."""
    sources: dict[Student, Source] = {
        student: source
        for student in students
        if student.loss.needs_teacher and (source := student.stored or live) is not None
    }
    answers: dict[Source, Answer] = {}
    for source in set(sources.values()):
        losses = [student.loss for student, own in sources.items() if own is source]
        answers[source] = source(
            batch, tuple(dict.fromkeys(tap for loss in losses for tap in loss.teacher_taps))
        )
    return {student: answers[source] for student, source in sources.items()}
