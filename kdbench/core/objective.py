"""The base class of objectives, and what it may ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdbench.core.logits import as_logits
from kdbench.core.traits import TENSOR_NEEDS
from kdbench.core.types import Batch, Outputs


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What an objective may know of the training data before it sees any of it.

    num_classes: C.
    labels: int64 [train_size], of the full training set, which `Batch.index` counts in; on the CPU.
    trained: int64, the positions in it that the students are shown (all of it but a held-out part or a subset).
    """

    num_classes: int
    labels: Tensor
    trained: Tensor

    @property
    def train_size(self) -> int:
        """The size of the full training set."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Probes:
    """Both sides' answers to one small batch in eval mode without gradient: shapes for `Objective.bind`."""

    student: Outputs
    teacher: Outputs


@dataclass(frozen=True, slots=True)
class ExtraForward:
    """Training images that an objective wants the student to answer before a step, beside the batch.

    per_class: so many of each class, drawn anew for each step; None: the whole epoch, in the views it will show.
    train_mode: by the student in train mode, where batch statistics move the running ones; else in eval mode.
    """

    per_class: int | None = None
    train_mode: bool = False


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method comes from; `arxiv` is the identifier, or empty where there is none."""

    title: str
    year: int
    arxiv: str = ""


class Objective(nn.Module):
    """One distillation loss term: an unweighted scalar, averaged over rows.

    A subclass computes the term in `forward`, declares what it needs in the class (or instance) attributes
    below, and makes learnable parts in `setup`. It holds no weight, schedule, cross-entropy or device.
    """

    paper: ClassVar[Paper]
    formula: ClassVar[str] = ""
    """The term in one line of plain text, for the documentation."""

    defaults_from: ClassVar[str] = ""
    """Where the default parameters come from."""

    high_cost: ClassVar[str] = ""
    """Why the method takes more than 10 % of a training step; empty where it does not."""

    disagreements: ClassVar[tuple[str, ...]] = ()
    """Where paper, official code and this file differ, a sentence each, with the switch where there is one."""

    version: ClassVar[int] = 1
    """Raised when the value computed changes, so that old runs are not taken for new ones."""

    neutral_options: ClassVar[Mapping[str, Any]] = {}
    """Options that were added later, with the values at which the objective computes what it did before. Options with
    these values are left out of the identity of a run, so that earlier runs stay valid. A literal."""

    needs: tuple[str, ...] = ("logits",)
    """For people and tables: logits, labels, features, classifier, index, epoch, views, ..."""

    needs_teacher: bool = True
    """Without a teacher such an objective is refused; one that sets False is given outputs that say nothing."""

    needs_student: bool = True
    """False for a first stage that trains parts of the objective on the teacher's answers alone."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()
    """Names, or patterns that are replaced, before `setup`, by the names that the model has: `stage*` and `stage*.pre`
    (every stage, shallow first), `stage-1` and `stage-1.pre` (the deepest). Where both sides ask for every
    stage and one has more, the deepest ones are paired."""

    views: tuple[str, ...] = ()
    """Further views of each row that both sides answer in `parts`: `strong`; of text `predict`, `explain`."""

    tasks: tuple[str, ...] = ()
    """Which tasks it is made for. Empty: images, and language models too where it needs logits and labels alone."""

    couples_rows: bool = False
    """The value is not a mean of per-row values (batch statistics, Gram matrices): DDP gathers its rows."""

    order_dependent: bool = False
    """Permuting the rows of a batch changes the value."""

    depends_on_batch_size: bool = False
    """Several copies of a batch have another value than the batch, so a published weight holds for its batch size."""

    f_divergence: bool = False
    """The value is a mean over rows of sums q f(p/q): it can be told from a teacher's likeliest classes and the mass of
    all others (`kdbench.core.logits.TopKLogits`)."""

    bounded: bool = True
    """False for a term that can fall without end: a run is stopped as diverged where both the cross-entropy and minus
    the term, over the steps of a log line, are above ln C."""

    needs_class_balanced_images: bool = False
    """Its surveys draw training images by class, which data that are read from files do not have."""

    owns_predict: bool = False
    """`predict` replaces the student's own logits at evaluation and in the export (SimKD's head)."""

    def __call__(
        self,
        student: Outputs | Tensor,
        teacher: Outputs | Tensor | None = None,
        batch: Batch | Tensor | None = None,
        *,
        epoch: int = 1,
    ) -> Tensor:
        """Return the unweighted term, from outputs and a batch or from plain tensors.

        Args:
            student: The student's outputs, or its logits [N, C].
            teacher: The teacher's outputs, or its logits [N, C]; gradients do not flow to these logits.
            batch: The batch, or the labels, int64 [N], for an objective that needs them.
            epoch: The epoch, from 1, of tensors; a `Batch` has its own.

        Returns:
            A scalar, averaged over rows. Half precision logits are computed in float32.

        Raises:
            ValueError: The objective needs more than logits, labels and epoch; logits or labels are missing, or their
                shapes differ.

        Examples:
            >>> loss = kdbench.objectives.create("dkd")
            >>> value = loss(student_logits, teacher_logits, target)
        """
        if isinstance(student, Tensor):
            student, teacher, batch = self._from_tensors(student, teacher, batch, epoch)
        value: Tensor = super().__call__(student, teacher, batch)
        return value

    def _from_tensors(
        self, student: Tensor, teacher: Outputs | Tensor | None, target: Batch | Tensor | None, epoch: int
    ) -> tuple[Outputs, Outputs, Batch]:
        """Wrap logits and labels; ValueError where they do not serve this objective."""
        name = type(self).__name__
        missing = [need for need in self.needs if need not in TENSOR_NEEDS]
        if type(self).extra_forward is not Objective.extra_forward:
            missing.append("extra forward passes over the training data")
        if missing:
            raise ValueError(
                f"{name} needs {', '.join(missing)}, and tensors give logits and labels only; use kdbench.Distiller "
                f"or kdbench.train"
            )
        if not isinstance(teacher, Tensor):
            raise ValueError(
                f"{name}: the teacher's logits are missing; call loss(student_logits, teacher_logits)"
            )
        if student.dim() != 2 or student.shape != teacher.shape:
            raise ValueError(
                f"{name}: the logits of student and teacher must both be [N, C], got {list(student.shape)} and "
                f"{list(teacher.shape)}; logits.flatten(0, -2) joins the rows of further dimensions"
            )
        if "labels" in self.needs and not isinstance(target, Tensor):
            raise ValueError(
                f"{name}: the labels are missing; call loss(student_logits, teacher_logits, target)"
            )
        rows = torch.arange(len(student), device=student.device)
        labels = target if isinstance(target, Tensor) else torch.zeros_like(rows)
        if labels.shape != rows.shape:
            raise ValueError(f"{name}: the labels must be [{len(rows)}], got {list(labels.shape)}")
        batch = Batch(student.detach()[:, :0], labels, rows, epoch=epoch)
        logits = as_logits(student).float32(), as_logits(teacher.detach()).float32()
        return Outputs(logits[0]), Outputs(logits[1]), batch

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make learnable parts and memories, before the optimiser, the checkpoint load and DDP exist.

        The features are names by then. Draws come from torch's generator, which is seeded for this objective.
        ValueError, with the shapes and what would fit, where the objective cannot serve these two models.
        """

    def extra_forward(self, epoch: int) -> ExtraForward | None:
        """Return what the student should answer before the next step of this epoch, or None.

        `receive_extra_forward` is handed the answers.
        """
        return None

    def receive_extra_forward(self, epoch: int, answers: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn from the student's answers to a survey: pairs of logits [N, C], without gradient, and target [N].

        Under DDP they are this rank's. What is kept of them belongs into the state dict.
        """

    def predict(self, student: Outputs) -> Tensor:
        """Logits [N, C] for evaluation; only asked of an objective that sets `owns_predict`."""
        return student.logits

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The unweighted term: a scalar, mean over rows."""
        raise NotImplementedError
