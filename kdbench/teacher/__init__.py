"""Who answers for a teacher: a trained network (live), or nobody."""

from kdbench.teacher.live import LiveTeacher, live_teacher, no_teacher

__all__ = ["LiveTeacher", "live_teacher", "no_teacher"]
