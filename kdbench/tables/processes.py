"""Running what a table misses: cohorts of runs, each in a process of its own, some of them side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdbench.core.errors import RunError
from kdbench.distributed.devices import gpus_of
from kdbench.jobs.job import Job, JobResult, Limits
from kdbench.jobs.scheduler import JobScheduler
from kdbench.runs.cohort import cohorts
from kdbench.runs.plan import Plan
from kdbench.tables.definition import Table
from kdbench.tables.grid import Cell, found
from kdbench.teachers.names import network_overrides
from kdbench.training.run_folder import RunFolder
from kdbench.utils.hardware import cuda_devices
from kdbench.utils.hashing import digest

Batch = list[Cell]
"""The runs of one process."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a table ended: done, failed or left, and why; seconds: of its process."""

    cell: Cell
    state: str
    reason: str | None
    seconds: float


def batches(table: Table, cells: Sequence[Cell]) -> list[Batch]:
    """The processes for these cells, the largest first: cohorts, in so many parts that no job has nothing to do."""
    by_plan = {id(cell.plan): cell for cell in cells}
    made = [
        part
        for group in cohorts([cell.plan for cell in cells])
        for product in _products([by_plan[id(plan)] for plan in group])
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
    groups: dict[tuple[str, tuple[str, ...], int], Batch] = {}
    for cell in cells:
        # two overrides say a network of timm's, one a network of ours: no product of keys has both
        words = len(network_overrides("student", cell.pair.rpartition(":")[2]))
        groups.setdefault((cell.variant, losses[cell.variant, cell.pair], words), []).append(cell)
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


def run_missing(
    table: Table, missing: Sequence[Batch], say: Callable[[Outcome], None], note: Callable[[str], None]
) -> int | None:
    """Run every batch in a process of its own; the rest go on when one fails. The signal that stopped it, or None.

    A run that another process of this table has at hand, here or on another machine, is left to it.
    """
    by_job = {job_for(table, batch): batch for batch in missing}

    def died(one: JobResult) -> None:
        _mark_dead(table, by_job[one.job], one)

    def ended(one: JobResult) -> None:
        for outcome in _outcomes(table, by_job[one.job], one):
            say(outcome)

    plans = [cell.plan for batch in missing for cell in batch]
    scheduler = JobScheduler(limits(table, plans, table.timeout), ended, note, died)
    scheduler.run(list(by_job))
    return scheduler.stopped_by


def limits(table: Table, plans: Sequence[Plan], timeout: float | None) -> Limits:
    """What a table says of its processes. timeout: minutes that each may take."""
    devices = table.devices or max((gpus_of(plan.cfg.trainer) for plan in plans), default=1)
    seconds = None if timeout is None else 60 * timeout
    at_once = max(1, min(table.jobs, len(cuda_devices()) // devices)) if devices > 1 else table.jobs
    return Limits(at_once, table.threads, devices, seconds, table.retries, table.pin)


def job_for(table: Table, batch: Batch) -> Job:
    """The process of a batch. Its claims are one for each run, so that no two processes train one."""
    folder, overrides = Path(table.output), command(batch)
    title = batch[0].title + (f" and {len(batch) - 1} more" if len(batch) > 1 else "")
    words = ("-m", "kdbench.cli.train", *overrides, "resume=true", "progress=false")
    claims = tuple(
        folder / "claims" / f"{cell.key}.lock" for cell in sorted(batch, key=lambda cell: cell.key)
    )
    log = folder / "logs" / f"{digest(overrides)}.txt"
    return Job(title, words, log, claims=claims, needed=lambda: _unfinished(table, batch))


def _unfinished(table: Table, batch: Batch) -> bool:
    there = found(table)
    return any(there.get(cell.key, {}).get("state") != "done" for cell in batch)


def _outcomes(table: Table, batch: Batch, ended: JobResult) -> Iterator[Outcome]:
    """What became of each run of a process, by its record where it has one."""
    there = found(table)
    for cell in batch:
        record = there.get(cell.key, {})
        if record.get("state") == "done":
            yield Outcome(cell, "done", None, ended.seconds)
            continue
        own = record.get("reason") if record.get("state") == "failed" else None
        reason = f"{own or ended.reason or 'ended without a record'} (log: {ended.job.log})"
        yield Outcome(cell, "left" if ended.state == "stopped" else "failed", reason, ended.seconds)


def _mark_dead(table: Table, batch: Batch, ended: JobResult) -> None:
    """Say in the records that still call themselves running why they are not: a killed process cannot."""
    there = found(table)
    for cell in batch:
        record = there.get(cell.key, {})
        if record.get("state") != "running":
            continue
        folder = RunFolder(Path(record.pop("folder")))
        with suppress(RunError):  # somebody else is at work there
            folder.open()
            folder.write_record({**record, "state": "failed", "reason": ended.reason})
        folder.close()


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
