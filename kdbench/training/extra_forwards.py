"""Forward passes of a student over training images outside its batches, for objectives that need them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdbench.core.objective import ExtraForward
from kdbench.core.types import Batch
from kdbench.data.base import TaskData
from kdbench.distributed.collectives import rank, share_statistics
from kdbench.training.student import Student
from kdbench.utils.seeding import derive, seed_generators


class ExtraForwards:
    """Runs the extra forward passes that objectives ask for before a step (`Objective.extra_forward`)."""

    def __init__(self, data: TaskData, seed: int, bf16: bool) -> None:
        self.data, self.seed, self.bf16 = data, seed, bf16

    def before(self, student: Student, epoch: int, step: int) -> None:
        """Run the forward passes that the objectives of a student need before this step."""
        for term in student.loss.terms.values():
            if (request := term.extra_forward(epoch)) is not None:
                term.receive_extra_forward(epoch, self._answers(student, request, epoch, step))

    def _batches(self, request: ExtraForward, epoch: int, step: int) -> Iterator[Batch]:
        if request.per_class is not None:
            drawn = self.data.class_balanced_batch(request.per_class, self.seed, epoch, step)
            if len(drawn.target):
                yield drawn
            return
        for number in range(self.data.steps_per_epoch):
            if self.data.rows(epoch, number, number + 1):
                batch = self.data.train_batch(epoch, number)
                if not batch.shares or batch.shares[rank()]:
                    yield batch

    @torch.no_grad()
    def _answers(
        self, student: Student, request: ExtraForward, epoch: int, step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        model, was_training = student.model, student.model.training
        seed_generators(derive(self.seed, "survey", epoch, step), self.data.device)
        model.train(request.train_mode)
        try:
            if not request.train_mode:
                share_statistics(model)
            for batch in self._batches(request, epoch, step):
                with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=self.bf16):
                    logits = model(batch.inputs)
                yield logits.float(), batch.target
        finally:
            model.train(was_training)
