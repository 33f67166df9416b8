"""The student: a network with its loss, and the LightningModule that trains one or many of them."""

from kdbench.student.module import Interrupted, StudentModule
from kdbench.student.student import Student

__all__ = ["Interrupted", "Student", "StudentModule"]
