"""Estimate time and disk space of runs before they start."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench.core.records import records
from kdbench.models.flops import model_cost
from kdbench.runs.plan import Plan
from kdbench.tables.definition import Table
from kdbench.tables.grid import Cell
from kdbench.teachers.names import ENSEMBLE_SEPARATOR, network_of
from kdbench.utils.formatting import format_bytes, format_duration
from kdbench.utils.paths import CONF_DIR
from kdbench.utils.provenance import machine

BENCH = CONF_DIR.parent / "benchmarks" / "bench.json"

_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "cifar100_mini": 2_000, "imagenet": 1_281_167}
"""Training images of data sets whose size is known before they are loaded."""


class Estimate:
    """Estimates for a table on this machine."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def of_runs(self, batches: Sequence[Sequence[Cell]]) -> str:
        """Return a sentence with the time and disk space of processes."""
        plans = [[cell.plan for cell in batch] for batch in batches]
        by_records = [self._seconds_by_records(batch) for batch in batches]
        known = [seconds for seconds in by_records if seconds is not None]
        if len(known) < len(batches):
            return self._by_bench(plans)
        return self._words(plans, known, f"from records of this machine in {self._places}")

    def of_teachers(self, plans: Sequence[Plan]) -> str:
        """Return a sentence with the time and disk space of training teachers."""
        return self._by_bench([[plan] for plan in plans])

    def _words(self, batches: Sequence[Sequence[Plan]], seconds: Sequence[float], source: str) -> str:
        whole = max(max(seconds), sum(seconds) / min(self.table.jobs, len(seconds)))
        return f"an estimate: {format_duration(whole)}{_room(batches)}; {source}, training alone"

    # ---- from records

    @property
    def _places(self) -> Path:
        return Path(self.table.output).parent

    @cached_property
    def _rates(self) -> dict[tuple[str, ...], list[float]]:
        """Core seconds per image of finished runs, by (teacher, student, loss) and by (teacher, student)."""
        rates: dict[tuple[str, ...], list[float]] = {}
        for _, record in records(self._places):
            if record.get("state") != "done" or record.get("is_stage") or record.get("machine") != machine():
                continue
            names, speed = record["names"], record.get("images_per_second")
            if speed and "student" in names:
                key = network_of(names["teacher"]), names["student"], names["loss"]
                for known in (key, key[:2]):
                    rates.setdefault(known, []).append(record["threads"] / speed)
        return rates

    def _seconds_by_records(self, batch: Sequence[Cell]) -> float | None:
        """Return the time of a process, or None if no similar run was recorded or the number of images is unknown."""
        seconds = 0.0
        for cell in batch:
            *_, teacher, student = cell.pair.split(":")
            key = network_of(teacher), student, cell.loss
            rates, images = self._rates.get(key) or self._rates.get(key[:2]), _images(cell.plan)
            if rates is None or images is None:
                return None
            seconds += statistics.median(rates) * images / self.table.threads
        return seconds

    # ---- from kdbench bench

    def _by_bench(self, batches: Sequence[Sequence[Plan]]) -> str:
        if not BENCH.is_file():
            return f"no estimate: no record of such a run here, and no figures of kdbench bench ({BENCH})"
        bench = json.loads(BENCH.read_text())
        try:
            seconds = [self._seconds_by_bench(bench, batch) for batch in batches]
        except (ValueError, RuntimeError) as error:  # a network that wants other inputs than 32 x 32 images
            return f"no estimate: {error}"
        where = bench["provenance"]["machine"]
        here = "this machine" if where == machine() else f"another machine, {where['processor']}"
        source = f"from kdbench bench ({BENCH.parent.name}/{BENCH.name}, {here}, CPU), scaled by images and network"
        return self._words(batches, seconds, source)

    def _seconds_by_bench(self, bench: dict[str, Any], batch: Sequence[Plan]) -> float:
        """Return the time of a process: one teacher call per batch for all runs, and the training of each student."""
        images = _images(batch[0])
        if images is None:
            raise ValueError(f"the size of {batch[0].data.name} is known only once it is loaded")
        answers, learns = list(_network_rates(bench, "teacher")), list(_network_rates(bench, "student"))
        per_image = sum(
            _core_seconds(model_cost(plan.network["name"]).training_gflops, learns) for plan in batch
        )
        if any(plan.needs_teacher for plan in batch):
            for member in batch[0].names["teacher"].split(ENSEMBLE_SEPARATOR):
                per_image += _core_seconds(model_cost(network_of(member)).forward_gflops, answers)
        return per_image * images / self.table.threads


def _network_rates(bench: dict[str, Any], side: str) -> Iterator[tuple[float, float]]:
    """Yield (GFLOP, core seconds) per image of each network that was measured on a side."""
    for pair in bench["pairs"]:
        rows = {row["setting"]: row["ms"]["cpu"] / 1e3 for row in pair["rows"]}
        if {"live-fp32", "warm-fp32"} <= rows.keys():
            student = rows["warm-fp32"]
            seconds = student if side == "student" else rows["live-fp32"] - student
            yield pair[f"{side}_gflop"] / pair["batch"], seconds / pair["batch"]


def _core_seconds(gflop: float, measured: Sequence[tuple[float, float]]) -> float:
    """Return the time per image, scaled by GFLOP from the measured network of the nearest size."""
    if not measured:
        raise ValueError("kdbench bench has not measured live-fp32 and warm-fp32")
    near, seconds = min(measured, key=lambda known: abs(math.log(gflop / known[0])))
    return seconds * gflop / near


def _images(plan: Plan) -> int | None:
    """Return the number of images that a run is trained on, over all epochs, or None if it is unknown."""
    node = plan.config["dataset"]
    size = node.get("train") or _IMAGES.get(plan.data.name or "")
    if not isinstance(size, int):
        return None
    subset = node.get("subset") or {}
    kept = 1.0 if subset.get("repeat") else subset.get("fraction", 1.0)
    return int((size - node.get("validation", 0)) * kept) * int(plan.cfg.trainer.max_epochs)


def _room(batches: Sequence[Sequence[Plan]]) -> str:
    """Return the disk space of runs (weights, momentum, exported weights) as words; empty for unknown networks."""
    try:
        networks = [plan.network["name"] for batch in batches for plan in batch]
        return f", {format_bytes(12 * sum(model_cost(name).parameters for name in networks))} on the disk"
    except (ValueError, RuntimeError):
        return ""
