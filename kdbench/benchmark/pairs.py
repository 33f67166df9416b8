"""One pair in every setting, each in turns with the reference loop."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.benchmark.interleave import InterleavedTimer, Limit
from kdbench.benchmark.peak_flops import conv_peak
from kdbench.benchmark.settings import Reference, Setting, Setup, seal_zeros
from kdbench.benchmark.stopwatch import Stopwatch, Turn, part_ms
from kdbench.data.images.crop_flip import view_count
from kdbench.models.flops import model_cost
from kdbench.training.module import StudentModule
from kdbench.utils.hardware import has_bf16_units

Raw = dict[str, Any]
CLOCKS = ("cpu", "wall")


def measure(setup: Setup, settings: Mapping[str, Setting], limit: Limit) -> Iterator[Raw]:
    """Measure each setting of a pair in turns with the reference loop.

    Yields:
        One row of plain data for each setting. The same reference loop continues from one to the next.

    Raises:
        ValueError: The data have too few full batches for a turn.
    """
    if limit.chunk > (batches := max(2, setup.data.train_size // setup.data.batch_size)):
        raise ValueError(
            f"steps={limit.steps}: {setup.data.name} has {batches} full batches and a turn needs {limit.chunk}; "
            f"use fewer steps"
        )
    watch = Stopwatch()
    reference = Reference(setup, watch)
    for name, setting in settings.items():
        precision = "bf16" if setting.precision == "bf16" else "fp32"
        peaks = [conv_peak(precision)]
        plans = setup.plans(setting, f"log_every={limit.chunk}")
        if setting.cached:
            seal_zeros(plans[0])
        teacher = _LiveTeacherTimer(setting.cached)
        timer = InterleavedTimer(watch, limit, reference.turn, teacher)
        timer.run(plans)
        peaks.append(conv_peak(precision))
        row: Raw = {
            "setting": name,
            "about": setting.about,
            "precision": setting.precision,
            "emulated": setting.precision != "fp32" and not has_bf16_units(),
            "students": len(setting.losses),
            "cached": setting.cached,
            "ours": as_data(timer.ours),
            "reference": as_data(timer.theirs),
            "peak": {clock: max(each) for clock, each in zip(CLOCKS, zip(*peaks, strict=True), strict=True)},
        }
        if setting.cached:
            row["fill"] = {
                "images": setup.data.train_size,
                "views_per_image": view_count(setup.data.padding),
                "epochs": plans[0].schedule.epochs,
                "teacher": teacher.ms,
            }
        yield row


def work(pair: str, classes: int, batch: int) -> dict[str, float]:
    """Return the GFLOP of a step's teacher and student."""
    teacher, student = (model_cost(name, classes) for name in pair.split(":"))
    return {"teacher_gflop": teacher.forward_gflops * batch, "student_gflop": student.training_gflops * batch}


def as_data(turns: Sequence[Turn]) -> Raw:
    """Return milliseconds per step: every turn, and the median of each part."""
    return {
        "cpu_ms": [round(turn.cpu_ms, 3) for turn in turns],
        "wall_ms": [round(turn.wall_ms, 3) for turn in turns],
        "parts": {clock: part_ms(turns, clock) for clock in CLOCKS},
    }


class _LiveTeacherTimer:
    """Measures the live teacher before a run on a warm cache: what filling that cache costs."""

    _CALLS = 3

    def __init__(self, cached: bool) -> None:
        self._cached = cached
        self.ms: dict[str, float] = {}
        """Milliseconds of a batch, by clock."""

    def __call__(self, module: StudentModule) -> None:
        if not self._cached:
            return
        assert module.teacher is not None
        watch, turns = Stopwatch(), []
        for step in range(self._CALLS + 1):
            batch = module.data.train_batch(1, step % module.data.steps_per_epoch)
            watch.start()
            module.teacher(batch)
            turns.append(watch.stop(1))
        self.ms = {
            clock: statistics.median(getattr(turn, f"{clock}_ms") for turn in turns[1:]) for clock in CLOCKS
        }
