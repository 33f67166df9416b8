"""Who answers for a teacher: a trained network (live), several of them, or nobody."""

from kdbench.teacher.ensemble import ensemble_teacher
from kdbench.teacher.live import LiveTeacher, live_teacher, no_teacher

__all__ = ["LiveTeacher", "ensemble_teacher", "live_teacher", "no_teacher"]
