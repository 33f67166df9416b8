"""The cost of Lightning per optimiser step: the time between `training_step`s and of Lightning's calls inside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from kdbench.benchmark.settings import Setup
from kdbench.core.errors import Interrupted
from kdbench.data.positions import Chunk
from kdbench.runs.execute import run_cohort
from kdbench.training.module import StudentModule

CHUNK = 50
"""Optimiser steps of one `training_step`: the default of log_every."""

STEP_MS = 40.0
"""Duration of the step of which the cost is reported as a share."""

_CALLS = 200


class Gaps(Callback):
    """Measures the time from the end of one `training_step` to the start of the next.

    Args:
        chunks: Number of gaps to measure.

    Attributes:
        gaps: Seconds of each gap.
        backward: Microseconds that `manual_backward` adds to torch's backward.
        optimizers: Microseconds of a call of `optimizers`.
    """

    def __init__(self, chunks: int) -> None:
        self.gaps: list[float] = []
        self.chunks = chunks
        self.backward = self.optimizers = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Wrap `training_step` in a clock, and time Lightning's calls inside it separately."""
        assert isinstance(module, StudentModule)
        value = torch.nn.Parameter(torch.zeros(1))
        through = _microseconds(lambda: module.manual_backward(value.sum()))
        self.backward = through - _microseconds(lambda: torch.autograd.backward(value.sum()))
        self.optimizers = _microseconds(lambda: module.optimizers(use_pl_optimizer=False))
        step, ended = module.training_step, time.perf_counter()

        @wraps(step)  # Lightning reads the signature
        def timed(chunk: Chunk, number: int) -> None:
            nonlocal ended
            if chunk.start:  # not between two epochs, where the checkpoint is written
                self.gaps.append(time.perf_counter() - ended)
            if len(self.gaps) >= self.chunks:
                module.stop_requested = True
            step(chunk, number)
            ended = time.perf_counter()

        setattr(module, "training_step", timed)  # noqa: B010 - on this instance only


def measure(setup: Setup, chunks: int = 20) -> dict[str, Any]:
    """Return the cost in microseconds per optimiser step, and in per cent of a step of STEP_MS."""
    gaps = Gaps(chunks)
    plan = setup.plan("loss=ce", f"log_every={CHUNK}")
    try:
        run_cohort([plan], [gaps])
    except Interrupted:
        if len(gaps.gaps) < chunks:
            raise KeyboardInterrupt from None
    outside = 1e6 * statistics.median(gaps.gaps) / CHUNK
    total = outside + gaps.backward + gaps.optimizers
    return {
        "steps_per_chunk": CHUNK,
        "outside_us": outside,
        "manual_backward_us": gaps.backward,
        "optimizers_us": gaps.optimizers,
        "step_us": total,
        "percent_of_40_ms": total / STEP_MS / 10,
    }


def _microseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times)
