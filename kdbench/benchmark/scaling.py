"""Measure the time of a step by cohort and batch size, and memory by data set size and over a run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from kdbench.benchmark.interleave import InterleavedTimer, Limit
from kdbench.benchmark.settings import Reference, Setup, seal_zeros
from kdbench.benchmark.stopwatch import Stopwatch, part_ms
from kdbench.core.errors import Interrupted
from kdbench.data.images.crop_flip import view_count
from kdbench.data.positions import Chunk
from kdbench.runs.execute import run_cohort
from kdbench.runs.plan import Plan
from kdbench.teachers.cache.logits import LOGITS
from kdbench.training.module import StudentModule
from kdbench.utils.hardware import resident_mib

COHORTS = (1, 2, 4, 8)
BATCHES = (16, 64, 256)
SHARED = ("data", "teacher")
"""The parts of a step that a cohort needs once for all students."""


def cohorts(setup: Setup, limit: Limit) -> list[dict[str, Any]]:
    """Measure the cost of a step by the number of students.

    Returns:
        Rows with `students`, `cost` and `predicted`. The prediction follows from the parts of a single student's
        step. Both are CPU time in steps of the reference loop, which ran in turns, so that other load cancels out.
    """
    members = [
        setup.plan("loss=kd", f"schedule.lr={0.05 + number / 1000}", f"log_every={limit.chunk}")
        for number in range(max(COHORTS))
    ]
    relative = _RelativeCost(setup, limit)
    parts = {size: relative.cost(members[:size]) for size in COHORTS}
    shared = sum(parts[1][part] for part in SHARED)
    own = sum(parts[1].values()) - shared
    return [
        {"students": size, "cost": sum(parts[size].values()), "predicted": shared + size * own}
        for size in COHORTS
    ]


def batches(setup: Setup, limit: Limit) -> list[dict[str, Any]]:
    """Measure the cost of a step by batch size.

    Returns:
        Rows with `batch`, `cost` (in steps of the reference at batch size 64) and `predicted`, the line through the
        smallest and the largest batch.
    """
    relative = _RelativeCost(setup, limit)
    rows = []
    for size in BATCHES:
        plan = setup.plan("loss=kd", f"schedule.batch_size={size}", f"log_every={limit.chunk}")
        rows.append({"batch": size, "cost": sum(relative.cost([plan]).values())})
    first, last = rows[0], rows[-1]
    slope = (last["cost"] - first["cost"]) / (last["batch"] - first["batch"])
    return [{**row, "predicted": first["cost"] + slope * (row["batch"] - first["batch"])} for row in rows]


class _RelativeCost:
    """The cost of runs of kdbench in steps of the reference loop of a pair."""

    def __init__(self, setup: Setup, limit: Limit) -> None:
        self._watch, self._limit = Stopwatch(), replace(limit, seconds=0.0)
        self._reference = Reference(setup, self._watch)

    def cost(self, plans: Sequence[Plan]) -> dict[str, float]:
        """Return the CPU time of a step, by part, in steps of the reference."""
        timer = InterleavedTimer(self._watch, self._limit, self._reference.turn).run(plans)
        step = statistics.median(turn.cpu_ms for turn in timer.theirs)
        return {part: ms / step for part, ms in part_ms(timer.ours).items()}


def data(setup: Setup, limit: Limit, caches: bool = False) -> dict[str, Any]:
    """Measure the memory of a data set.

    Args:
        setup: The data set.
        limit: Duration of the measurement.
        caches: Whether to create a full cache of teacher logits.

    Returns:
        Milliseconds to make a batch, bytes in memory, and bytes of a full cache, as computed and as measured.
    """
    timer = InterleavedTimer(Stopwatch(), replace(limit, seconds=0.0))
    turns = timer.run([setup.plan("loss=kd", f"log_every={limit.chunk}")]).ours
    of, images = setup.data, setup.data.train_images
    height, width = (side + 2 * of.padding for side in images.shape[-2:])
    cached = {"computed": cache_bytes(len(images), view_count(of.padding), of.num_classes), "measured": None}
    if caches:
        cached["measured"] = (seal_zeros(setup.plan("loss=kd")).folder / LOGITS).stat().st_size
    return {
        "dataset": of.name,
        "images": len(images),
        "batch_ms": part_ms(turns)["data"],
        "bytes": {
            "computed": len(images) * 3 * height * width,
            "measured": images.untyped_storage().nbytes(),
        },
        "cache_bytes": cached,
    }


def cache_bytes(images: int, views: int, classes: int, top: int | None = None) -> int:
    """Return the size of a cache of float16 logits: all, or the `top` largest of each view with int16 classes."""
    return images * views * (2 * classes if top is None else 4 * top)


class _Memory(Callback):
    """Records the resident memory of the process after every chunk."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0
        self.mib: list[tuple[int, float]] = []

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Chunk,
        batch_idx: int,
    ) -> None:
        """Record the memory."""
        assert isinstance(module, StudentModule)
        self.done += batch.stop - batch.start
        self.mib.append((self.done, resident_mib()))
        if self.done >= self.steps:
            module.stop_requested = True


def memory(setup: Setup, steps: int = 400) -> dict[str, Any]:
    """Return the resident MiB in the second and in the last quarter of a run with evaluations."""
    seen = _Memory(steps)
    try:
        run_cohort([setup.plan("loss=kd", "log_every=10", "evaluate_every=1")], [seen])
    except Interrupted:
        if seen.done < steps:
            raise KeyboardInterrupt from None
    early = statistics.median(mib for step, mib in seen.mib if steps / 4 <= step < steps / 2)
    late = statistics.median(mib for step, mib in seen.mib if step >= 3 * steps / 4)
    return {"steps": seen.done, "early_mib": early, "late_mib": late, "growth_mib": late - early}
