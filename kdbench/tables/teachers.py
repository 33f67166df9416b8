"""Train the missing teachers of a table before its students, each once, also if several tables need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kdbench.config.compose import Composer
from kdbench.jobs.job import Job, JobResult
from kdbench.jobs.scheduler import JobScheduler
from kdbench.runs.plan import Plan, make_plan
from kdbench.tables.definition import Table
from kdbench.tables.grid import Cell
from kdbench.tables.processes import limits
from kdbench.teachers.names import network_of
from kdbench.teachers.store import MissingTeacherError, shipped, stored
from kdbench.utils.paths import home


@dataclass(frozen=True)
class MissingTeacher:
    """A teacher that does not exist yet, with the run that trains it."""

    name: str
    label_space: str
    overrides: tuple[str, ...]
    plan: Plan

    @property
    def title(self) -> str:
        """A short description."""
        return f"teacher {self.name} for {self.label_space}"

    @property
    def is_there(self) -> bool:
        """Whether the store has it now."""
        return stored(self.label_space, self.name).is_file()

    @property
    def can_start(self) -> bool:
        """Whether the weights that its training starts from exist."""
        start = self.plan.cfg.teacher.get("init")
        network = network_of(self.name)
        return start is None or any(place(self.label_space, network).is_file() for place in (stored, shipped))


def missing_teachers(table: Table, lacking: Mapping[Cell, ValueError]) -> list[MissingTeacher]:
    """Return the teachers that must be trained, those that others start from first.

    Args:
        table: The table.
        lacking: The errors of `with_teachers`.
    """
    compose, found = Composer("train_teacher"), dict[tuple[str, str], MissingTeacher]()

    def add(name: str, cell: Cell, space: str) -> None:
        if (space, name) not in found:
            overrides = _overrides(table, cell.plan, name)
            one = MissingTeacher(
                name, space, tuple(overrides), make_plan(compose(overrides), {"dataset": space})
            )
            if not one.can_start:
                add(network_of(name), cell, space)
            found[space, name] = one

    for cell, error in lacking.items():
        if not isinstance(error, MissingTeacherError):
            continue
        for name in cell.plan.cfg.teacher.get("members", [error.name]):
            if not any(place(error.label_space, name).is_file() for place in (stored, shipped)):
                add(name, cell, error.label_space)
    return list(found.values())


def _overrides(table: Table, plan: Plan, name: str) -> list[str]:
    """Return the command line of a teacher's run; it lies in the home folder, so that every table can continue it."""
    common = [one for one in (*table.overrides, *table.extra_overrides) if one.partition("=")[0] in _HARDWARE]
    words = [*plan.teacher_overrides(name), f"threads={table.threads}", f"output={home() / 'runs'}"]
    return [*words, *common, *table.teacher_overrides]


_HARDWARE = (
    "trainer",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "sync_batchnorm")),
)
"""Overrides of a table that hold for its teachers, too: devices, but not the length of training."""


def train(
    table: Table,
    teachers: list[MissingTeacher],
    on_result: Callable[[JobResult], None],
    print_line: Callable[[str], None],
) -> int | None:
    """Train teachers, those first that others start from; return the signal that stopped it, or None."""
    left = teachers
    while ready := [one for one in left if one.can_start]:
        left = [one for one in left if not one.can_start]
        plans = [one.plan for one in ready]
        scheduler = JobScheduler(limits(table, plans, table.teacher_timeout), on_result, print_line)
        scheduler.run([job_for(one) for one in ready])
        if scheduler.stopped_by is not None:
            return scheduler.stopped_by
    return None


def job_for(teacher: MissingTeacher) -> Job:
    """Return the job that trains a teacher."""
    words = ("-m", "kdbench.cli.train_teacher", *teacher.overrides, "resume=true", "progress=false")
    file = stored(teacher.label_space, teacher.name)
    log = home() / "runs" / "logs" / f"{teacher.label_space}-{file.stem}.txt"
    claims = (file.with_suffix(".lock"),)
    return Job(teacher.title, words, log, claims=claims, needed=lambda: not teacher.is_there)
