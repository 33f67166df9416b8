"""The base class of objectives, and the types of its interface."""

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
    """Facts about the training set for objectives.

    Attributes:
        num_classes: Number of classes C.
        labels: Labels of the full training set, int64 [train_size], on the CPU; `Batch.index` refers to them.
        trained: Positions in the full training set that are trained on, int64, without held-out or omitted ones.
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
    """Outputs of both networks for a small batch in eval mode, from which `Objective.setup` reads shapes."""

    student: Outputs
    teacher: Outputs


@dataclass(frozen=True, slots=True)
class ExtraForward:
    """A request for the student's outputs on training images outside the batch, before a step.

    Attributes:
        per_class: Images of each class, drawn for each step; None for all images of the epoch, in their views.
        train_mode: Run the student in train mode, which updates running statistics, instead of eval mode.
    """

    per_class: int | None = None
    train_mode: bool = False


@dataclass(frozen=True, slots=True)
class Paper:
    """The paper of a method; `arxiv` is the identifier, or empty."""

    title: str
    year: int
    arxiv: str = ""


class Objective(nn.Module):
    """One distillation loss term: an unweighted scalar, averaged over rows.

    A subclass computes the term in `forward`, declares its needs in the class (or instance) attributes below, and
    creates learnable parts in `setup`. It has no weight, schedule, cross-entropy or device.
    """

    paper: ClassVar[Paper]
    formula: ClassVar[str] = ""
    """The term in one line of plain text, for the documentation."""

    defaults_from: ClassVar[str] = ""
    """Where the default parameters come from."""

    high_cost: ClassVar[str] = ""
    """Why the method takes more than 10 % of a training step; empty if it does not."""

    disagreements: ClassVar[tuple[str, ...]] = ()
    """Differences between paper, official code and this file, one sentence each, with the option that switches."""

    version: ClassVar[int] = 1
    """Incremented when the computed value changes; part of the identity of runs."""

    neutral_options: ClassVar[Mapping[str, Any]] = {}
    """Options that were added later, with the values at which the objective computes what it did before. Options with
    these values are left out of the identity of a run, so that earlier runs stay valid. A literal."""

    needs: tuple[str, ...] = ("logits",)
    """What the objective reads: logits, labels, features, classifier, index, epoch, views, ..."""

    needs_teacher: bool = True
    """Whether the objective reads the teacher's outputs."""

    needs_student: bool = True
    """False for a first stage that trains parts of the objective on the teacher's outputs only."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()
    """Names of features, or patterns, which are replaced by names before `setup`: `stage*` and `stage*.pre` (all,
    shallow first), `stage-1` and `stage-1.pre` (the deepest). If both networks are asked for all stages and one has
    more, the deepest ones are paired."""

    views: tuple[str, ...] = ()
    """Additional views of each row, with outputs in `Outputs.parts`: `strong`; of texts `predict`, `explain`."""

    tasks: tuple[str, ...] = ()
    """The tasks of the objective. Empty: images, and language models if it reads logits and labels only."""

    couples_rows: bool = False
    """The value is not a mean of per-row values (batch statistics, Gram matrices): DDP gathers its rows."""

    order_dependent: bool = False
    """Permuting the rows of a batch changes the value."""

    depends_on_batch_size: bool = False
    """The value of a repeated batch differs, so a published weight is valid for its batch size only."""

    f_divergence: bool = False
    """The value is a mean over rows of sums q f(p/q), which can be computed from a teacher's top-k classes and the mass
    of all others (`kdbench.core.logits.TopKLogits`)."""

    bounded: bool = True
    """False for a term without a lower bound; a run is stopped as diverged if minus its mean over a log line is above
    ln C (`kdbench.training.divergence`)."""

    needs_class_balanced_images: bool = False
    """Its extra forward passes draw images by class, which streamed data do not support."""

    owns_predict: bool = False
    """`predict` replaces the student's logits in evaluation and export (SimKD's head)."""

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
        """Wrap logits and labels; ValueError if the objective needs more."""
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
        """Create learnable parts and memories; called before the optimiser exists and checkpoints are loaded.

        Feature patterns are names by then. Random draws use torch's generator, which is seeded for this objective.

        Args:
            student: The student network.
            teacher: The teacher network.
            probes: Outputs of both, for shapes.
            dataset_info: The training set.

        Raises:
            ValueError: The objective cannot serve these networks; the message has the shapes.
        """

    def extra_forward(self, epoch: int) -> ExtraForward | None:
        """Return a request for outputs of the student before the next step of an epoch, or None.

        `receive_extra_forward` receives these outputs.
        """
        return None

    def receive_extra_forward(self, epoch: int, answers: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Receive the outputs that `extra_forward` requested.

        Args:
            epoch: The epoch.
            answers: Pairs of logits [N, C], without gradient, and labels [N]; under DDP those of this rank. State that
                is derived from them must be in the state dict.
        """

    def predict(self, student: Outputs) -> Tensor:
        """Return logits [N, C] for evaluation; called if `owns_predict` is set."""
        return student.logits

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the unweighted term: a scalar, averaged over rows."""
        raise NotImplementedError
