"""Optimiser steps: the batch and the teacher's answers once, then every student; run as they are, or replayed."""

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
    """What the students of one step share. key: of the recording it is from; None where nothing is recorded."""

    epoch: int
    step: int
    batch: Batch
    answers: dict[Student, Outputs]
    key: Hashable = None


class Steps:
    """The optimiser steps of a cohort, one at a time: `begin`, then `take` for every student.

    backward: called with a loss, perhaps with `retain_graph`. graph: what steps with a full batch are recorded with, a
    graph for the shared part and one for each student, so that a student draws the same whoever trains alongside; None:
    all run as they are.
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
        self._surveys = ExtraForwards(data, seed, bf16)
        self._rows: Tensor | None = None
        self._shared = Recorded[tuple[Batch, dict[Student, Outputs]]](graph) if graph else None
        self._own: dict[Student, Recorded[Tensor]] = {}

    def ready(self, student: Student, optimizer: Optimizer) -> None:
        """Keep the learning rate where a recorded step can read it, or as a number."""
        for group in optimizer.param_groups:
            rate = float(group["lr"])
            group["lr"] = torch.tensor(rate, device=self.data.device) if self._graph else rate
        if self._graph:
            self._own[student] = Recorded(self._graph)

    def begin(self, epoch: int, step: int, students: Sequence[Student]) -> StepContext:
        """The batch of this position, and what the teacher says to each student that asks."""
        data, views = self.data, tuple(dict.fromkeys(view for student in students for view in student.views))
        if (key := self._key(epoch, step, students)) is None:
            batch = data.train_batch(epoch, step, views)
            asking = [one for one in students if not self._writes(one, epoch, step)]
            return StepContext(epoch, step, batch, teacher_answers(batch, asking, self.teacher))
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
        """One optimiser step of one student: the values of its loss, with their sum as `total`."""
        epoch, step, teacher = context.epoch, context.step, context.answers.get(student)
        # a recorded batch is of the place it was recorded at
        batch = replace(context.batch, epoch=epoch, step=step)
        if self._writes(student, epoch, step):
            batch = self._written(student, batch)
            teacher = teacher_answers(batch, [student], self.teacher).get(student)
        self._surveys.before(student, epoch, step)
        rate = student.schedule.lr_at(epoch, step, self.data.steps_per_epoch)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        # dropout and its like: the same draw whoever trains alongside, and after a resume; on each rank another
        place = (epoch, step, rank()) if rank() else (epoch, step)
        seed_generators(derive(self.seed, "step", *place), self.data.device)
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
        """Forward, backward and update."""
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.bf16):
            answer = student.answer(batch)
        if isinstance(optimizer, DOT):
            labels, objectives, values = student.loss.apart(answer, teacher, batch)
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
        optimizer.zero_grad(
            set_to_none=True
        )  # here, so that a cohort never holds the gradients of two students
        return {"total": total.detach(), **values}

    def _key(self, epoch: int, step: int, students: Sequence[Student]) -> Hashable:
        """Of the recording that serves this step, or None: of full batches alone, the others are few."""
        if not self._graph or self.data.rows(epoch, step, step + 1) != self.data.batch_size:
            return None
        return tuple(map(id, students))

    def _writes(self, student: Student, epoch: int, step: int) -> bool:
        """Whether the student's policy writes the responses of this step."""
        policy = student.loss.policy
        return policy is not None and policy.is_due(self.seed, epoch, step)

    def _written(self, student: Student, batch: Batch) -> Batch:
        """The batch with the responses that the student's policy has written for it."""
        policy, data = student.loss.policy, self.data
        assert policy is not None
        teacher = self.teacher.model if self.teacher else None
        return policy.rewritten(batch, student.model, teacher, *data.generation_limits, self.seed)


def _stacked(values: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([values[name] for name in names])
