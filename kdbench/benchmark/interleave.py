"""Turns of kdbench's own training and of the reference loop, one after the other in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from kdbench.benchmark.stopwatch import Stopwatch, Turn
from kdbench.core.errors import Interrupted
from kdbench.core.types import Batch, Outputs
from kdbench.data.positions import Chunk
from kdbench.runs.plan import Plan
from kdbench.runs.run import run_cohort
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.training.module import StudentModule


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a race goes on: until so many seconds have passed and so many turns are counted.

    steps: optimiser steps of one turn that are counted. One more goes before them, which finds the other side's maps in
    the caches and its own memory given back, as no step of a run alone does.
    """

    rounds: int = 5
    seconds: float = 20.0
    steps: int = 2

    @property
    def chunk(self) -> int:
        """The steps of a turn, with the one that is not counted."""
        return self.steps + 1


WARM_UP = 1
"""Rounds that are not counted: the first calls choose kernels and take memory."""


class InterleavedTimer(Callback):
    """Looks on while kdbench trains, times each chunk, and lets the reference take its turn before it.

    What is timed is a run of kdbench as it is: `StudentModule.training_step`, called by Lightning. The parts are told
    apart by hooks. `prepare` may change the module before training starts.
    """

    def __init__(
        self,
        watch: Stopwatch,
        limit: Limit,
        reference: Callable[[int], Turn] | None = None,
        prepare: Callable[[StudentModule], None] = lambda module: None,
    ) -> None:
        self.watch, self.limit, self.reference, self.prepare = watch, limit, reference, prepare
        self.ours: list[Turn] = []
        self.theirs: list[Turn] = []
        self.finished = False
        self._hooks = ExitStack()

    def run(self, plans: Sequence[Plan]) -> InterleavedTimer:
        """Train the cohort until the limit is reached; returns itself."""
        try:
            run_cohort(plans, [self])
        except Interrupted:
            if not self.finished:
                raise KeyboardInterrupt from None
        if not self.finished:
            raise ValueError("the run ended before the limit was reached")
        del self.ours[:WARM_UP], self.theirs[:WARM_UP]
        return self

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Hang the stopwatch into the module."""
        assert isinstance(module, StudentModule)
        self.prepare(module)
        _hang(self._hooks, self.watch.mark, module, trainer)
        _time_batches(self._hooks, self.watch.mark, self._begin_step, module)
        self._deadline = time.monotonic() + self.limit.seconds

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Chunk, batch_idx: int
    ) -> None:
        """The reference's turn, then ours begins."""
        if self.finished:
            return  # this chunk takes no step
        if self.reference is not None:
            self.theirs.append(self.reference(self.limit.steps))
        self._begun = 0
        self._counted = max(1, batch.stop - batch.start - 1)
        self._uncounted = batch.stop - batch.start - self._counted
        self.watch.start()

    def _begin_step(self) -> None:
        """A turn is counted from where its uncounted step has ended."""
        if self._begun == self._uncounted:
            self.watch.start()
        self._begun += 1

    def on_before_backward(self, *_: Any) -> None:
        """What came before is neither forward nor backward."""
        self.watch.mark("rest")

    def on_after_backward(self, *_: Any) -> None:
        """Gradients are there."""
        self.watch.mark("backward")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Chunk,
        batch_idx: int,
    ) -> None:
        """Our turn ends; ask for a stop where that is enough."""
        assert isinstance(module, StudentModule)
        turn = self.watch.stop(self._counted)
        if batch.stop * module.data.batch_size <= module.data.train_size:
            self.ours.append(turn)  # else the last batch of the epoch was smaller
        if len(self.ours) >= self.limit.rounds + WARM_UP and time.monotonic() >= self._deadline:
            self.finished = module.stop_requested = True

    def on_exception(self, *_: Any) -> None:
        """Leave the module as it was."""
        self._hooks.close()

    def on_train_end(self, *_: Any) -> None:
        """Leave the module as it was."""
        self._hooks.close()


def _hang(
    hooks: ExitStack, mark: Callable[[str], None], module: StudentModule, trainer: lightning.Trainer
) -> None:
    """Let every part of a step mark its end, and what comes before it as the rest."""

    def around(target: nn.Module, part: str) -> None:
        for handle in (
            target.register_forward_pre_hook(lambda *_: mark("rest")),
            target.register_forward_hook(lambda *_: mark(part)),
        ):
            hooks.callback(handle.remove)

    if module.teacher is not None:
        around(module.teacher, "teacher")
    _time_stored_answers(hooks, mark)
    for student in module.runs:
        around(student.model, "student")
        around(student.loss, "loss")
    for optimizer in trainer.optimizers:
        for step in (
            optimizer.register_step_pre_hook(lambda *_: mark("rest")),
            optimizer.register_step_post_hook(lambda *_: mark("optimiser")),
        ):
            hooks.callback(step.remove)


def _time_stored_answers(hooks: ExitStack, mark: Callable[[str], None]) -> None:
    answer = CachedTeacher.__call__

    def timed(teacher: CachedTeacher, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        mark("rest")
        outputs = answer(teacher, batch, features)
        mark("teacher")
        return outputs

    setattr(CachedTeacher, "__call__", timed)  # noqa: B010 - of the class, for Python calls no instance's own
    hooks.callback(setattr, CachedTeacher, "__call__", answer)


def _time_batches(
    hooks: ExitStack, mark: Callable[[str], None], begin: Callable[[], None], module: StudentModule
) -> None:
    """Batches are asked for where a step begins."""
    made = module.data.train_batch

    def train_batch(*arguments: Any) -> Any:
        begin()
        mark("rest")
        batch = made(*arguments)
        mark("data")
        return batch

    setattr(module.data, "train_batch", train_batch)  # noqa: B010 - a method, for as long as the race goes
    hooks.callback(delattr, module.data, "train_batch")
