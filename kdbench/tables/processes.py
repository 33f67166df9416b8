"""Run the missing runs of a table: cohorts in isolated processes, several at a time."""

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
from kdbench.tables.grid import Cell, records_by_key
from kdbench.teachers.names import network_overrides
from kdbench.training.run_folder import RunFolder
from kdbench.utils.hardware import cuda_devices
from kdbench.utils.hashing import digest

Batch = list[Cell]
"""The runs of one process."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a table ended.

    Attributes:
        cell: The run.
        state: `done`, `failed` or `left`.
        reason: Why it is not done.
        seconds: The time of its process.
    """

    cell: Cell
    state: str
    reason: str | None
    seconds: float


def make_batches(table: Table, cells: Sequence[Cell]) -> list[Batch]:
    """Divide cells into cohorts, one per process, the largest first; cohorts are split so that no job is idle."""
    by_plan = {id(cell.plan): cell for cell in cells}
    parts = [
        part
        for group in cohorts([cell.plan for cell in cells])
        for product in _products([by_plan[id(plan)] for plan in group])
        for part in _at_most(table.cohort, product)
    ]
    while len(parts) % table.jobs and len(largest := max(parts, key=len)) > 1:
        parts.remove(largest)
        parts += _halves(largest)
    return sorted(parts, key=len, reverse=True)


def _products(cells: Sequence[Cell]) -> list[Batch]:
    """Group cells so that each group is a product of losses and students, which one command line can express."""
    losses: dict[tuple[str, str], tuple[str, ...]] = {}
    for cell in cells:
        place = cell.variant, cell.pair
        losses[place] = (*losses.get(place, ()), cell.loss)
    groups: dict[tuple[str, tuple[str, ...], int], Batch] = {}
    for cell in cells:
        # a network of timm takes two overrides and others one, so they cannot be in one product
        words = len(network_overrides("student", cell.pair.rpartition(":")[2]))
        groups.setdefault((cell.variant, losses[cell.variant, cell.pair], words), []).append(cell)
    return list(groups.values())


def _at_most(most: int, product: Batch) -> list[Batch]:
    if len(product) <= most:
        return [product]
    return [part for half in _halves(product) for part in _at_most(most, half)]


def _halves(product: Batch) -> tuple[Batch, Batch]:
    """Split a product into two, by losses or by students."""
    losses, pairs = {cell.loss: None for cell in product}, {cell.pair: None for cell in product}
    axis = list(losses if len(losses) >= len(pairs) else pairs)
    first = set(axis[: (len(axis) + 1) // 2])
    belongs = [(cell.loss if len(losses) >= len(pairs) else cell.pair) in first for cell in product]
    cells = list(zip(product, belongs, strict=True))
    return [cell for cell, here in cells if here], [cell for cell, here in cells if not here]


def run_missing(
    table: Table,
    missing: Sequence[Batch],
    on_outcome: Callable[[Outcome], None],
    print_line: Callable[[str], None],
) -> int | None:
    """Run every batch in a process; if one fails, the others go on.

    A run that another command for this table is training, here or on another machine, is left to it.

    Args:
        table: The table.
        missing: The batches.
        on_outcome: Called when a run has ended.
        print_line: Called with messages of the scheduler.

    Returns:
        The signal that stopped the runs, or None.
    """
    by_job = {job_for(table, batch): batch for batch in missing}

    def died(one: JobResult) -> None:
        _mark_dead(table, by_job[one.job], one)

    def ended(one: JobResult) -> None:
        for outcome in _outcomes(table, by_job[one.job], one):
            on_outcome(outcome)

    plans = [cell.plan for batch in missing for cell in batch]
    scheduler = JobScheduler(limits(table, plans, table.timeout), ended, print_line, died)
    scheduler.run(list(by_job))
    return scheduler.stopped_by


def limits(table: Table, plans: Sequence[Plan], timeout: float | None) -> Limits:
    """Return the limits of the processes of a table.

    Args:
        table: The table.
        plans: The runs.
        timeout: Minutes of each process.
    """
    devices = table.devices or max((gpus_of(plan.cfg.trainer) for plan in plans), default=1)
    seconds = None if timeout is None else 60 * timeout
    at_once = max(1, min(table.jobs, len(cuda_devices()) // devices)) if devices > 1 else table.jobs
    return Limits(at_once, table.threads, devices, seconds, table.retries, table.pin)


def job_for(table: Table, batch: Batch) -> Job:
    """Return the job of a batch. It claims each of its runs, so that no two processes train the same run."""
    folder, overrides = Path(table.output), command(batch)
    title = batch[0].title + (f" and {len(batch) - 1} more" if len(batch) > 1 else "")
    words = ("-m", "kdbench.cli.train", *overrides, "resume=true", "progress=false")
    claims = tuple(
        folder / "claims" / f"{cell.key}.lock" for cell in sorted(batch, key=lambda cell: cell.key)
    )
    log = folder / "logs" / f"{digest(overrides)}.txt"
    return Job(title, words, log, claims=claims, needed=lambda: _unfinished(table, batch))


def _unfinished(table: Table, batch: Batch) -> bool:
    existing = records_by_key(table)
    return any(existing.get(cell.key, {}).get("state") != "done" for cell in batch)


def _outcomes(table: Table, batch: Batch, ended: JobResult) -> Iterator[Outcome]:
    """Yield how each run of a process ended, according to its record if it has one."""
    existing = records_by_key(table)
    for cell in batch:
        record = existing.get(cell.key, {})
        if record.get("state") == "done":
            yield Outcome(cell, "done", None, ended.seconds)
            continue
        own = record.get("reason") if record.get("state") == "failed" else None
        reason = f"{own or ended.reason or 'ended without a record'} (log: {ended.job.log})"
        yield Outcome(cell, "left" if ended.state == "stopped" else "failed", reason, ended.seconds)


def _mark_dead(table: Table, batch: Batch, ended: JobResult) -> None:
    """Mark the runs of a killed process as failed in their records."""
    existing = records_by_key(table)
    for cell in batch:
        record = existing.get(cell.key, {})
        if record.get("state") != "running":
            continue
        folder = RunFolder(Path(record.pop("folder")))
        with suppress(RunError):  # another process has locked the folder
            folder.open()
            folder.write_record({**record, "state": "failed", "reason": ended.reason})
        folder.close()


def command(batch: Batch) -> list[str]:
    """Return the overrides that train a batch in one process."""
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
