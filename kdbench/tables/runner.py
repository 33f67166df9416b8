"""Run a table: find what is missing, train teachers, then students, and report how that ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from kdbench.jobs.job import JobResult
from kdbench.tables.definition import Table
from kdbench.tables.estimate import Estimate
from kdbench.tables.grid import Cell, records_by_key, with_teachers
from kdbench.tables.precompute import precompute_answers
from kdbench.tables.processes import Outcome, make_batches, run_missing
from kdbench.tables.teachers import missing_teachers, train
from kdbench.teachers.store import MissingTeacherError
from kdbench.utils.signals import handle_signals


class TableRunner:
    """Runs the missing cells of a table.

    Args:
        table: The table.
        grid: Its cells.
        print_line: Prints a line.

    Attributes:
        stopped_by: The signal that stopped the command, or None.
    """

    def __init__(self, table: Table, grid: Sequence[Cell], print_line: Callable[[str], None]) -> None:
        self.table, self.print_line = table, print_line
        self.grid, errors = with_teachers(table, grid)
        self.teachers = missing_teachers(table, errors)
        self.outcomes: list[Outcome] = []
        self.failed_teachers: list[str] = []
        """Messages about teachers whose training failed."""
        self._ended = 0
        self.stopped_by: int | None = None

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the cells, in their order."""
        existing = records_by_key(self.table)
        return [{**existing[cell.key], "variant": cell.variant} for cell in self.grid if cell.key in existing]

    def missing(self) -> list[str]:
        """Return a line for each run that is not done, with the reason."""
        reasons = {outcome.cell.key: outcome.reason for outcome in self.outcomes if outcome.reason}
        existing = records_by_key(self.table)
        lines = []
        for cell in self._missing():
            reason = (
                existing.get(cell.key, {}).get("reason") or reasons.get(cell.key, "").partition(" (log")[0]
            )
            lines.append(f"{cell.title} ({reason or 'not run to its end'})")
        return lines

    def _missing(self, on_error: Callable[[ValueError], None] = lambda _: None) -> list[Cell]:
        existing = records_by_key(self.table, on_error)
        return [cell for cell in self.grid if existing.get(cell.key, {}).get("state") != "done"]

    # ---- before

    def dry_run(self) -> None:
        """Print what would be run, what it would take, and which runs exist."""
        missing = {id(cell) for cell in self._missing()}
        self._plan()
        for teacher in self.teachers:
            self.print_line(f"  train  {teacher.title}: kdbench train-teacher {' '.join(teacher.overrides)}")
        lines: dict[tuple[str, str], list[int]] = {}
        for cell in self.grid:
            state = "done " if id(cell) not in missing else "train"
            lines.setdefault((state, cell.description), []).append(cell.seed)
        for (state, about), seeds in lines.items():
            self.print_line(
                f"  {state}  {about}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
            )
        self.print_line("--dry-run: nothing was started")

    def _plan(self) -> None:
        """Print how much there is to do, which teachers are missing, and an estimate."""
        missing = self._missing(lambda error: self.print_line(f"left out: {error}"))
        table, forecast = self.table, Estimate(self.table)
        waiting = [
            cell for cell in missing if cell.previous and not cell.key
        ]  # each waits for its own teacher
        ready = [cell for cell in missing if cell not in waiting]
        todo = [*(make_batches(table, ready) if ready else []), *([cell] for cell in waiting)]
        self.print_line(
            f"{table.title}: {len(self.grid)} runs, {len(missing)} to do in {len(todo)} processes, "
            f"{table.jobs} at a time"
        )
        if self.teachers:
            names = ", ".join(teacher.name for teacher in self.teachers)
            self.print_line(f"teachers that are missing are trained first (teachers=refuse: not): {names}")
            self.print_line(f"  {forecast.of_teachers([teacher.plan for teacher in self.teachers])}")
        if missing:
            self.print_line(forecast.of_runs(todo))

    # ---- the work

    def run(self, console: Console) -> None:
        """Train what is missing; if a run fails, the others go on."""
        self._plan()
        if self.teachers:
            self.stopped_by = train(self.table, self.teachers, self._teacher_ended, self.print_line)
        tried, errors = set[str](), dict[Cell, ValueError]()
        while self.stopped_by is None:  # once for each generation of a chain
            self.grid, errors = with_teachers(self.table, self.grid)
            todo = [cell for cell in self._missing() if cell.key and cell.key not in tried]
            if not todo:
                break
            tried |= {cell.key for cell in todo}
            processes = make_batches(self.table, todo)
            try:
                if self.table.cache:
                    with handle_signals(_stop):
                        precompute_answers(processes, self.table.jobs * self.table.threads, console)
            except _StoppedError as stopped:
                self.stopped_by = stopped.number
                break
            self.stopped_by = run_missing(self.table, processes, self._run_ended, self.print_line)
        self.outcomes += [Outcome(cell, "left", _reason(error), 0.0) for cell, error in errors.items()]

    def _teacher_ended(self, ended: JobResult) -> None:
        reason = f": {ended.reason} (log: {ended.job.log})" if ended.reason else ""
        self.print_line(f"    {ended.state} in {ended.seconds:.0f} s: {ended.job.title}{reason}")
        if ended.state == "failed":
            self.failed_teachers.append(f"{ended.job.title}{reason}")

    def _run_ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._ended += 1
        self.print_line(f"{self._ended:3} {outcome.state} in {outcome.seconds:.0f} s: {outcome.cell.title}")

    # ---- after

    def conclude(self, done: int, seconds: float) -> None:
        """Print what failed and why, and the number of runs that are done, failed and left."""
        failed = [outcome for outcome in self.outcomes if outcome.state == "failed"]
        left = len(self.grid) - done - len(failed)
        for teacher in self.failed_teachers:
            self.print_line(f"failed: {teacher}")
        for outcome in failed:
            self.print_line(f"failed: {outcome.cell.title}: {outcome.reason}")
        errors = dict.fromkeys(o.reason for o in self.outcomes if o.state == "left" and not o.seconds)
        for reason in errors:
            self.print_line(f"left: {reason}{' to learn from' if str(reason).startswith('no ') else ''}")
        again = "; the same command goes on" if failed or left else ""
        self.print_line(
            f"{done} done, {len(failed)} failed, {left} left of {len(self.grid)}; {seconds:.0f} s{again}"
        )


class _StoppedError(Exception):
    """A signal asked the command to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int) -> None:
    raise _StoppedError(number)


def _reason(error: ValueError) -> str:
    """Return why a run has no teacher."""
    return f"no {error.name}" if isinstance(error, MissingTeacherError) else str(error)
