"""How a step grows with the cohort and with the batch, memory with the data set, and whether a run stays flat."""

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
from kdbench.runs.plan import Plan
from kdbench.runs.run import run_cohort
from kdbench.teachers.cache.logits import LOGITS
from kdbench.training.module import StudentModule
from kdbench.utils.hardware import resident_mib

COHORTS = (1, 2, 4, 8)
BATCHES = (16, 64, 256)
SHARED = ("data", "teacher")
"""The parts of a step that a cohort pays once."""


def cohorts(made: Setup, limit: Limit) -> list[dict[str, Any]]:
    """What a step costs by the number of students, beside what the parts of a single student's step foretell.

    cost, foretold: CPU time in steps of the reference, which took turns, so that a busy machine cancels out.
    """
    members = [
        made.plan("loss=kd", f"schedule.lr={0.05 + number / 1000}", f"log_every={limit.chunk}")
        for number in range(max(COHORTS))
    ]
    against = _Against(made, limit)
    parts = {size: against.cost(members[:size]) for size in COHORTS}
    shared = sum(parts[1][part] for part in SHARED)
    own = sum(parts[1].values()) - shared
    return [
        {"students": size, "cost": sum(parts[size].values()), "foretold": shared + size * own}
        for size in COHORTS
    ]


def batches(made: Setup, limit: Limit) -> list[dict[str, Any]]:
    """What a step costs by batch size, in steps of the reference at 64, beside a + bB through the smallest and the
    largest."""
    against = _Against(made, limit)
    rows = []
    for size in BATCHES:
        plan = made.plan("loss=kd", f"schedule.batch_size={size}", f"log_every={limit.chunk}")
        rows.append({"batch": size, "cost": sum(against.cost([plan]).values())})
    first, last = rows[0], rows[-1]
    slope = (last["cost"] - first["cost"]) / (last["batch"] - first["batch"])
    return [{**row, "foretold": first["cost"] + slope * (row["batch"] - first["batch"])} for row in rows]


class _Against:
    """Runs of kdbench in turns with the reference of a pair."""

    def __init__(self, made: Setup, limit: Limit) -> None:
        self._watch, self._limit = Stopwatch(), replace(limit, seconds=0.0)
        self._reference = Reference(made, self._watch)

    def cost(self, plans: Sequence[Plan]) -> dict[str, float]:
        """Of a step, by part: CPU time in steps of the reference."""
        race = InterleavedTimer(self._watch, self._limit, self._reference.turn).run(plans)
        step = statistics.median(turn.cpu_ms for turn in race.theirs)
        return {part: ms / step for part, ms in part_ms(race.ours).items()}


def data(made: Setup, limit: Limit, caches: bool = False) -> dict[str, Any]:
    """Of one data set: ms to make a batch, bytes held, bytes of a full cache; each as computed and as found.

    caches: whether a full cache is to be made.
    """
    race = InterleavedTimer(Stopwatch(), replace(limit, seconds=0.0))
    turns = race.run([made.plan("loss=kd", f"log_every={limit.chunk}")]).ours
    of, images = made.data, made.data.train_images
    height, width = (side + 2 * of.padding for side in images.shape[-2:])
    cached = {"computed": cache_bytes(len(images), view_count(of.padding), of.num_classes), "found": None}
    if caches:
        cached["found"] = (seal_zeros(made.plan("loss=kd")).folder / LOGITS).stat().st_size
    return {
        "dataset": of.name,
        "images": len(images),
        "batch_ms": part_ms(turns)["data"],
        "bytes": {"computed": len(images) * 3 * height * width, "found": images.untyped_storage().nbytes()},
        "cache_bytes": cached,
    }


def cache_bytes(images: int, views: int, classes: int, top: int | None = None) -> int:
    """Of a cache of float16 logits: all of them, or the `top` largest of each view with their classes (int16)."""
    return images * views * (2 * classes if top is None else 4 * top)


class _Memory(Callback):
    """Notes what the process holds after every chunk."""

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
        """After a chunk."""
        assert isinstance(module, StudentModule)
        self.done += batch.stop - batch.start
        self.mib.append((self.done, resident_mib()))
        if self.done >= self.steps:
            module.stop_requested = True


def memory(made: Setup, steps: int = 400) -> dict[str, Any]:
    """MiB that the process holds after a quarter of the steps and at their end; evaluations are among them."""
    seen = _Memory(steps)
    try:
        run_cohort([made.plan("loss=kd", "log_every=10", "evaluate_every=1")], [seen])
    except Interrupted:
        if seen.done < steps:
            raise KeyboardInterrupt from None
    early = statistics.median(mib for step, mib in seen.mib if steps / 4 <= step < steps / 2)
    late = statistics.median(mib for step, mib in seen.mib if step >= 3 * steps / 4)
    return {"steps": seen.done, "early_mib": early, "late_mib": late, "growth_mib": late - early}
