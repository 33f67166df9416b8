"""Running what a table misses: cohorts of runs, each in a process of its own, some of them side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kdbench.cohort import cohorts
from kdbench.report.grid import Cell, Table, found
from kdbench.results import digest

Batch = list[Cell]
"""The runs of one process."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a table ended; seconds: of its process."""

    cell: Cell
    failure: str | None
    seconds: float


def batches(table: Table, cells: Sequence[Cell]) -> list[Batch]:
    """The processes for these cells, the largest first: cohorts, in so many parts that no job has nothing to do."""
    by_plan = {id(cell.planned): cell for cell in cells}
    made = [
        part
        for group in cohorts([cell.planned for cell in cells])
        for product in _products([by_plan[id(planned)] for planned in group])
        for part in _at_most(table.cohort, product)
    ]
    while len(made) % table.jobs and len(largest := max(made, key=len)) > 1:
        made.remove(largest)
        made += _halves(largest)
    return sorted(made, key=len, reverse=True)


def _products(cells: Sequence[Cell]) -> list[Batch]:
    """The cells in groups of one variant that are all pairs of some losses and some students: what one command line
    can say."""
    losses: dict[tuple[str, str], tuple[str, ...]] = {}
    for cell in cells:
        place = cell.variant, cell.pair
        losses[place] = (*losses.get(place, ()), cell.loss)
    groups: dict[tuple[str, tuple[str, ...]], Batch] = {}
    for cell in cells:
        groups.setdefault((cell.variant, losses[cell.variant, cell.pair]), []).append(cell)
    return list(groups.values())


def _at_most(most: int, product: Batch) -> list[Batch]:
    if len(product) <= most:
        return [product]
    return [part for half in _halves(product) for part in _at_most(most, half)]


def _halves(product: Batch) -> tuple[Batch, Batch]:
    """A product of several cells as two products: half of its losses, or of its students, each."""
    losses, pairs = {cell.loss: None for cell in product}, {cell.pair: None for cell in product}
    axis = list(losses if len(losses) >= len(pairs) else pairs)
    first = set(axis[: (len(axis) + 1) // 2])
    belongs = [(cell.loss if len(losses) >= len(pairs) else cell.pair) in first for cell in product]
    cells = list(zip(product, belongs, strict=True))
    return [cell for cell, here in cells if here], [cell for cell, here in cells if not here]


def run_missing(table: Table, missing: Sequence[Batch], say: Callable[[Outcome], None]) -> list[Outcome]:
    """Run every batch in a process of its own; the rest go on when one fails.

    Ctrl-C reaches the running ones too, which stop with a checkpoint; no further one is started.
    """

    def start(batch: Batch) -> list[Outcome]:
        outcomes = _run(table, batch)
        for outcome in outcomes:
            say(outcome)
        return outcomes

    pool = ThreadPoolExecutor(table.jobs)
    try:
        return [outcome for outcomes in pool.map(start, missing) for outcome in outcomes]
    finally:
        pool.shutdown(cancel_futures=True)


def command(batch: Batch) -> list[str]:
    """The overrides that train these cells in one process."""
    if len(batch) == 1:
        return list(batch[0].overrides)
    common = [
        override for override in batch[0].overrides if all(override in cell.overrides for cell in batch)
    ]
    choices: dict[str, list[str]] = {}
    for cell in batch:
        for override in cell.overrides:
            if override not in common:
                key, _, value = override.partition("=")
                choices.setdefault(key, []).append(value)
    sweeps = [f"{key}={','.join(dict.fromkeys(values))}" for key, values in choices.items()]
    return ["-m", "hydra/launcher=cohort", *common, *sweeps]


def _run(table: Table, batch: Batch) -> list[Outcome]:
    logs = Path(table.output) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    overrides = command(batch)
    log = logs / f"{digest(overrides)}.txt"
    words = [sys.executable, "-m", "kdbench.train", *overrides, "resume=true", "progress=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(table.threads), "OMP_WAIT_POLICY": "passive"}
    started = time.monotonic()
    with open(log, "w") as file:
        code = subprocess.run(words, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    seconds = time.monotonic() - started
    if not code:
        return [Outcome(cell, None, seconds) for cell in batch]
    lines = log.read_text().strip().splitlines()
    last, records = lines[-1] if lines else f"exit code {code}", found(table)
    return [Outcome(cell, _failure(records.get(cell.key), last, log), seconds) for cell in batch]


def _failure(record: dict[str, object] | None, last_line: str, log: Path) -> str | None:
    """Why a run of a process that failed is not there, or None for one that is."""
    if record is not None and record["state"] == "done":
        return None
    reason = record["reason"] if record is not None and record["state"] == "failed" else last_line
    return f"{reason} (log: {log})"
