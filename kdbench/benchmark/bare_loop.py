"""A training step of kdbench compared with a bare loop of the same operations: the overhead of everything else."""

from __future__ import annotations

import statistics
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.benchmark.interleave import InterleavedTimer, Limit
from kdbench.benchmark.pairs import CLOCKS
from kdbench.benchmark.settings import SETTINGS, Setup, seal_zeros
from kdbench.benchmark.stopwatch import Stopwatch, Turn
from kdbench.models.registry import create_model
from kdbench.utils.hardware import has_bf16_units


class Bare:
    """The bare loop: teacher (or constant logits), student, KD and SGD, on one batch over and over.

    Args:
        setup: Images and networks.
        bf16: Whether to run the networks in bfloat16.
        cached: Whether constant logits replace the teacher.
        watch: The stopwatch.
    """

    def __init__(self, setup: Setup, bf16: bool, cached: bool, watch: Stopwatch) -> None:
        teacher, student = (create_model(name, setup.data.num_classes) for name in setup.pair.split(":"))
        self.bf16, self.cached, self._watch = bf16, cached, watch
        self.teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.student = student.train().to(memory_format=torch.channels_last)
        self.sgd = torch.optim.SGD(student.parameters(), 0.05, 0.9, weight_decay=5e-4, fused=True)
        batch = setup.data.train_batch(1, 0)
        self.images, self.labels = batch.inputs, batch.target
        self.constant = torch.randn(len(batch.target), setup.data.num_classes)

    def turn(self, steps: int) -> Turn:
        """Time some steps, after one warm-up step."""
        self._step()
        self._watch.start()
        for _ in range(steps):
            self._step()
        return self._watch.stop(steps)

    def _step(self) -> None:
        with torch.no_grad():
            theirs = self.constant if self.cached else self._answer(self.teacher)
        ours = self._answer(self.student)
        soft = F.kl_div((ours / 4).log_softmax(1), (theirs / 4).softmax(1), reduction="batchmean")
        loss = 0.1 * F.cross_entropy(ours, self.labels) + 0.9 * 16 * soft
        torch.autograd.backward(loss)
        self.sgd.step()
        self.sgd.zero_grad(set_to_none=True)

    def _answer(self, network: nn.Module) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits: Tensor = network(self.images)
        return logits.float()


def measure(setup: Setup, limit: Limit) -> list[dict[str, Any]]:
    """Return the time of kdbench's step divided by the bare loop's, by clock, with a live teacher and a warm cache."""
    precision, watch, rows = "bf16" if has_bf16_units() else "fp32", Stopwatch(), []
    for kind in ("live", "warm"):
        setting = SETTINGS[f"{kind}-{precision}"]
        plans = setup.plans(setting, f"log_every={limit.chunk}")
        if setting.cached:
            seal_zeros(plans[0])
        timer = InterleavedTimer(
            watch, limit, Bare(setup, precision == "bf16", setting.cached, watch).turn
        ).run(plans)
        sides = [
            {clock: statistics.median(getattr(turn, f"{clock}_ms") for turn in turns) for clock in CLOCKS}
            for turns in (timer.ours, timer.theirs)
        ]
        over = {clock: sides[0][clock] / sides[1][clock] for clock in CLOCKS}
        rows.append({"setting": setting.about, "ours": sides[0], "bare": sides[1], "over": over})
    return rows
