"""One command's work on a table: what is missing, teachers first, then students; and how that ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from kdbench.jobs.job import JobResult
from kdbench.tables.definition import Table
from kdbench.tables.estimate import Forecast
from kdbench.tables.grid import Cell, found, with_teachers
from kdbench.tables.precompute import store_ahead
from kdbench.tables.processes import Outcome, batches, run_missing
from kdbench.tables.teachers import needed, train
from kdbench.teachers.store import MissingTeacherError
from kdbench.utils.signals import handle_signals


class Work:
    """`grid`, run as far as it is not there; `say` prints a line."""

    def __init__(self, table: Table, grid: Sequence[Cell], say: Callable[[str], None]) -> None:
        self.table, self.say = table, say
        self.grid, lacking = with_teachers(table, grid)
        self.teachers = needed(table, lacking)
        self.outcomes: list[Outcome] = []
        self.without_teacher: list[str] = []
        """Teachers whose training failed, with the reason."""
        self._ended = 0
        self.stopped_by: int | None = None
        """The signal that ended the work before its end."""

    def records(self) -> list[dict[str, Any]]:
        """The records of the table's cells, in their order."""
        there = found(self.table)
        return [{**there[cell.key], "variant": cell.variant} for cell in self.grid if cell.key in there]

    def missing(self) -> list[str]:
        """The runs that are not done, with what their records or this command say of why."""
        said = {outcome.cell.key: outcome.reason for outcome in self.outcomes if outcome.reason}
        there = found(self.table)
        lines = []
        for cell in self._missing():
            reason = there.get(cell.key, {}).get("reason") or said.get(cell.key, "").partition(" (log")[0]
            lines.append(f"{cell.title} ({reason or 'not run to its end'})")
        return lines

    def _missing(self, left_out: Callable[[ValueError], None] = lambda _: None) -> list[Cell]:
        there = found(self.table, left_out)
        return [cell for cell in self.grid if there.get(cell.key, {}).get("state") != "done"]

    # ---- before

    def foretell(self) -> None:
        """Say what would be run, what it would take, and which runs are there; nothing is started."""
        missing = {id(cell) for cell in self._missing()}
        self._plan()
        for teacher in self.teachers:
            self.say(f"  train  {teacher.title}: kdbench train-teacher {' '.join(teacher.overrides)}")
        lines: dict[tuple[str, str], list[int]] = {}
        for cell in self.grid:
            state = "done " if id(cell) not in missing else "train"
            lines.setdefault((state, cell.about), []).append(cell.seed)
        for (state, about), seeds in lines.items():
            self.say(
                f"  {state}  {about}, {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
            )
        self.say("--dry-run: nothing was started")

    def _plan(self) -> None:
        """The first lines: how much there is to do, what of it are teachers, and what it will take."""
        missing = self._missing(lambda error: self.say(f"left out: {error}"))
        table, forecast = self.table, Forecast(self.table)
        waiting = [cell for cell in missing if cell.before and not cell.key]  # each has a teacher of its own
        ready = [cell for cell in missing if cell not in waiting]
        todo = [*(batches(table, ready) if ready else []), *([cell] for cell in waiting)]
        self.say(
            f"{table.title}: {len(self.grid)} runs, {len(missing)} to do in {len(todo)} processes, "
            f"{table.jobs} at a time"
        )
        if self.teachers:
            names = ", ".join(teacher.name for teacher in self.teachers)
            self.say(f"teachers that are missing are trained first (teachers=refuse: not): {names}")
            self.say(f"  {forecast.of_teachers([teacher.plan for teacher in self.teachers])}")
        if missing:
            self.say(forecast.of_runs(todo))

    # ---- the work

    def run(self, console: Console) -> None:
        """Train what is missing. Whatever fails, the rest goes on."""
        self._plan()
        if self.teachers:
            self.stopped_by = train(self.table, self.teachers, self._teacher_ended, self.say)
        tried, lacking = set[str](), dict[Cell, ValueError]()
        while self.stopped_by is None:  # once, but in a chain once for each generation
            self.grid, lacking = with_teachers(self.table, self.grid)
            todo = [cell for cell in self._missing() if cell.key and cell.key not in tried]
            if not todo:
                break
            tried |= {cell.key for cell in todo}
            processes = batches(self.table, todo)
            try:
                if self.table.cache:
                    with handle_signals(_stop):
                        store_ahead(processes, self.table.jobs * self.table.threads, console)
            except _StoppedError as stopped:
                self.stopped_by = stopped.number
                break
            self.stopped_by = run_missing(self.table, processes, self._run_ended, self.say)
        self.outcomes += [Outcome(cell, "left", _in_a_word(error), 0.0) for cell, error in lacking.items()]

    def _teacher_ended(self, ended: JobResult) -> None:
        reason = f": {ended.reason} (log: {ended.job.log})" if ended.reason else ""
        self.say(f"    {ended.state} in {ended.seconds:.0f} s: {ended.job.title}{reason}")
        if ended.state == "failed":
            self.without_teacher.append(f"{ended.job.title}{reason}")

    def _run_ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._ended += 1
        self.say(f"{self._ended:3} {outcome.state} in {outcome.seconds:.0f} s: {outcome.cell.title}")

    # ---- after

    def conclude(self, done: int, seconds: float) -> None:
        """The last lines: what failed and why, and how many are done, failed and left."""
        failed = [outcome for outcome in self.outcomes if outcome.state == "failed"]
        left = len(self.grid) - done - len(failed)
        for teacher in self.without_teacher:
            self.say(f"failed: {teacher}")
        for outcome in failed:
            self.say(f"failed: {outcome.cell.title}: {outcome.reason}")
        lacking = dict.fromkeys(o.reason for o in self.outcomes if o.state == "left" and not o.seconds)
        for reason in lacking:
            self.say(f"left: {reason}{' to learn from' if str(reason).startswith('no ') else ''}")
        again = "; the same command goes on" if failed or left else ""
        self.say(
            f"{done} done, {len(failed)} failed, {left} left of {len(self.grid)}; {seconds:.0f} s{again}"
        )


class _StoppedError(Exception):
    """A signal asked this command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int) -> None:
    raise _StoppedError(number)


def _in_a_word(error: ValueError) -> str:
    """What a run has no teacher for."""
    return f"no {error.name}" if isinstance(error, MissingTeacherError) else str(error)
