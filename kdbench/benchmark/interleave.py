"""Time a run of kdbench in turns with the reference loop, in one process."""

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
from kdbench.runs.execute import run_cohort
from kdbench.runs.plan import Plan
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.training.module import StudentModule


@dataclass(frozen=True, slots=True)
class Limit:
    """The duration of a measurement: at least so many rounds and so many seconds.

    Attributes:
        rounds: Turns of each side.
        seconds: Seconds in all.
        steps: Timed optimiser steps of a turn. One warm-up step precedes them, because the other side's turn has
            evicted caches and taken memory.
    """

    rounds: int = 5
    seconds: float = 20.0
    steps: int = 2

    @property
    def chunk(self) -> int:
        """The steps of a turn, including the warm-up step."""
        return self.steps + 1


WARM_UP = 1
"""Rounds that are discarded: the first calls choose kernels and allocate memory."""


class InterleavedTimer(Callback):
    """A Lightning callback that times each chunk of a run and gives the reference loop a turn before it.

    The timed code is that of any run: `StudentModule.training_step`, called by Lightning. Hooks tell its parts apart.

    Args:
        watch: The stopwatch.
        limit: Duration of the measurement.
        reference: Runs a turn of the reference loop; None for no reference.
        prepare: Called with the module before training starts.

    Attributes:
        ours: The turns of kdbench.
        theirs: The turns of the reference.
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
        """Train the cohort until the limit is reached. Returns self.

        Raises:
            ValueError: The run ends before the limit is reached.
        """
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
        """Attach the stopwatch to the module."""
        assert isinstance(module, StudentModule)
        self.prepare(module)
        _attach_hooks(self._hooks, self.watch.mark, module, trainer)
        _time_batches(self._hooks, self.watch.mark, self._begin_step, module)
        self._deadline = time.monotonic() + self.limit.seconds

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Chunk, batch_idx: int
    ) -> None:
        """Run the reference's turn, then start that of kdbench."""
        if self.finished:
            return  # the module stops before its next step
        if self.reference is not None:
            self.theirs.append(self.reference(self.limit.steps))
        self._steps_started = 0
        self._counted = max(1, batch.stop - batch.start - 1)
        self._warm_up_steps = batch.stop - batch.start - self._counted
        self.watch.start()

    def _begin_step(self) -> None:
        """Restart the stopwatch when the warm-up steps of a turn are over."""
        if self._steps_started == self._warm_up_steps:
            self.watch.start()
        self._steps_started += 1

    def on_before_backward(self, *_: Any) -> None:
        """Charge the time before the backward pass to `rest`."""
        self.watch.mark("rest")

    def on_after_backward(self, *_: Any) -> None:
        """Charge the backward pass."""
        self.watch.mark("backward")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Chunk,
        batch_idx: int,
    ) -> None:
        """End the turn of kdbench, and request a stop once the limit is reached."""
        assert isinstance(module, StudentModule)
        turn = self.watch.stop(self._counted)
        if batch.stop * module.data.batch_size <= module.data.train_size:
            self.ours.append(turn)  # otherwise the last batch of the epoch was smaller
        if len(self.ours) >= self.limit.rounds + WARM_UP and time.monotonic() >= self._deadline:
            self.finished = module.stop_requested = True

    def on_exception(self, *_: Any) -> None:
        """Remove the hooks."""
        self._hooks.close()

    def on_train_end(self, *_: Any) -> None:
        """Remove the hooks."""
        self._hooks.close()


def _attach_hooks(
    hooks: ExitStack, mark: Callable[[str], None], module: StudentModule, trainer: lightning.Trainer
) -> None:
    """Let every part of a step charge its time to itself, and the time before it to `rest`."""

    def around(target: nn.Module, part: str) -> None:
        for handle in (
            target.register_forward_pre_hook(lambda *_: mark("rest")),
            target.register_forward_hook(lambda *_: mark(part)),
        ):
            hooks.callback(handle.remove)

    if module.teacher is not None:
        around(module.teacher, "teacher")
    _time_cached_teacher(hooks, mark)
    for student in (run.student for run in module.runs):
        around(student.model, "student")
        around(student.loss, "loss")
    for optimizer in trainer.optimizers:
        for step in (
            optimizer.register_step_pre_hook(lambda *_: mark("rest")),
            optimizer.register_step_post_hook(lambda *_: mark("optimiser")),
        ):
            hooks.callback(step.remove)


def _time_cached_teacher(hooks: ExitStack, mark: Callable[[str], None]) -> None:
    answer = CachedTeacher.__call__

    def timed(teacher: CachedTeacher, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        mark("rest")
        outputs = answer(teacher, batch, features)
        mark("teacher")
        return outputs

    setattr(CachedTeacher, "__call__", timed)  # noqa: B010 - on the class, because Python looks up __call__ there
    hooks.callback(setattr, CachedTeacher, "__call__", answer)


def _time_batches(
    hooks: ExitStack, mark: Callable[[str], None], begin: Callable[[], None], module: StudentModule
) -> None:
    """Time the batches; a step starts with its batch."""
    make_batch = module.data.train_batch

    def train_batch(*arguments: Any) -> Any:
        begin()
        mark("rest")
        batch = make_batch(*arguments)
        mark("data")
        return batch

    setattr(module.data, "train_batch", train_batch)  # noqa: B010 - on the instance, until the measurement ends
    hooks.callback(delattr, module.data, "train_batch")
