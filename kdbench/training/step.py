"""Optimiser steps of a cohort: one batch and one teacher call, then a step of every student."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdbench.core.types import Batch, Outputs
from kdbench.data.base import TaskData
from kdbench.distributed.collectives import rank
from kdbench.teachers.live import LiveTeacher
from kdbench.training.cuda_graph import Graph, Recorded, of_epoch
from kdbench.training.dot import DOT
from kdbench.training.extra_forwards import ExtraForwards
from kdbench.training.student import Student
from kdbench.training.teacher_routing import teacher_answers
from kdbench.utils.seeding import derive, seed_generators


@dataclass(frozen=True, slots=True)
class StepContext:
    """What the students share in one step.

    Attributes:
        epoch: The epoch, from 1.
        step: The step within the epoch, from 0.
        batch: The batch.
        answers: The teacher's outputs for each student that needs them.
        key: The key of the CUDA graph that made the batch, or None.
    """

    epoch: int
    step: int
    batch: Batch
    answers: dict[Student, Outputs]
    key: Hashable = None


class Steps:
    """Takes optimiser steps of a cohort: `begin`, then `take` for every student.

    Args:
        data: The data, on the device.
        teacher: The live teacher, or None.
        seed: Seed of generators that are used within steps.
        bf16: Whether students run under bfloat16 autocast.
        backward: Called with a loss and perhaps `retain_graph`.
        graph: Makes CUDA graphs, which record the steps with a full batch: one graph for the shared part and one for
            each student, so that a student's random draws do not depend on the others. None runs every step as it is.
    """

    def __init__(
        self,
        data: TaskData,
        teacher: LiveTeacher | None,
        seed: int,
        bf16: bool,
        backward: Callable[..., None],
        graph: Callable[[], Graph] | None = None,
    ) -> None:
        self.data, self.teacher, self.seed, self.bf16 = data, teacher, seed, bf16
        self._backward, self._graph = backward, graph
        self._extra_forwards = ExtraForwards(data, seed, bf16)
        self._rows: Tensor | None = None
        self._shared = Recorded[tuple[Batch, dict[Student, Outputs]]](graph) if graph else None
        self._own: dict[Student, Recorded[Tensor]] = {}

    def ready(self, student: Student, optimizer: Optimizer) -> None:
        """Prepare a student's optimiser: a recorded step reads the learning rate from a tensor."""
        for group in optimizer.param_groups:
            rate = float(group["lr"])
            group["lr"] = torch.tensor(rate, device=self.data.device) if self._graph else rate
        if self._graph:
            self._own[student] = Recorded(self._graph)

    def begin(self, epoch: int, step: int, students: Sequence[Student]) -> StepContext:
        """Return the batch of a position, with the teacher's outputs for each student that needs them."""
        data, views = self.data, tuple(dict.fromkeys(view for student in students for view in student.views))
        if (key := self._key(epoch, step, students)) is None:
            batch = data.train_batch(epoch, step, views)
            others = [one for one in students if not self._generates(one, epoch, step)]
            return StepContext(epoch, step, batch, teacher_answers(batch, others, self.teacher))
        assert self._shared is not None
        drawn, _ = data.draw(epoch, step)
        if self._rows is None:
            self._rows = torch.empty_like(drawn)
        rows = self._rows.copy_(drawn)

        def work() -> tuple[Batch, dict[Student, Outputs]]:
            batch = data.batch_of(rows, epoch, step, views)
            return batch, teacher_answers(batch, students, self.teacher)

        return StepContext(epoch, step, *self._shared(key, work), key)

    def take(self, student: Student, optimizer: Optimizer, context: StepContext) -> dict[str, Tensor]:
        """Take one optimiser step of one student; return the parts of its loss, with their sum as `total`."""
        epoch, step, teacher = context.epoch, context.step, context.answers.get(student)
        # a recorded batch has the position at which it was recorded
        batch = replace(context.batch, epoch=epoch, step=step)
        if self._generates(student, epoch, step):
            batch = self._with_generated_responses(student, batch)
            teacher = teacher_answers(batch, [student], self.teacher).get(student)
        self._extra_forwards.before(student, epoch, step)
        rate = student.schedule.lr_at(epoch, step, self.data.steps_per_epoch)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        # dropout draws the same in any cohort and after a resume, but differently on each rank
        position = (epoch, step, rank()) if rank() else (epoch, step)
        seed_generators(derive(self.seed, "step", *position), self.data.device)
        if context.key is None:
            return self._learn(student, optimizer, batch, teacher)
        names: list[str] = ["total", *student.loss.weights]
        values = self._own[student](
            (context.key, of_epoch(student.loss, epoch)),
            lambda: _stacked(self._learn(student, optimizer, batch, teacher), names),
        )
        return dict(zip(names, values.clone().unbind(), strict=True))

    def _learn(
        self, student: Student, optimizer: Optimizer, batch: Batch, teacher: Outputs | None
    ) -> dict[str, Tensor]:
        """Forward pass, backward pass and update."""
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.bf16):
            answer = student.answer(batch)
        if isinstance(optimizer, DOT):
            labels, objectives, values = student.loss.separate_losses(answer, teacher, batch)
            self._backward(objectives, retain_graph=True)
            optimizer.keep()
            self._backward(labels)
            total = labels + objectives
        else:
            total, values = student.loss(answer, teacher, batch)
            self._backward(total)
        if student.schedule.clip is not None:
            nn.utils.clip_grad_norm_(student.parameters(), student.schedule.clip)
        optimizer.step()
        # here, so that a cohort never holds the gradients of two students
        optimizer.zero_grad(set_to_none=True)
        return {"total": total.detach(), **values}

    def _key(self, epoch: int, step: int, students: Sequence[Student]) -> Hashable:
        """Return the key of the graph that serves this step, or None: only full batches are recorded."""
        if not self._graph or self.data.rows(epoch, step, step + 1) != self.data.batch_size:
            return None
        return tuple(map(id, students))

    def _generates(self, student: Student, epoch: int, step: int) -> bool:
        """Whether the responses of this step are generated for the student (`loss.policy`)."""
        policy = student.loss.policy
        return policy is not None and policy.is_due(self.seed, epoch, step)

    def _with_generated_responses(self, student: Student, batch: Batch) -> Batch:
        policy, data = student.loss.policy, self.data
        assert policy is not None
        teacher = self.teacher.model if self.teacher else None
        return policy.with_generated_responses(
            batch, student.model, teacher, *data.generation_limits, self.seed
        )


def _stacked(values: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([values[name] for name in names])
