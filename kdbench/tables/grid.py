"""A table as a grid of runs, and the records of those that are there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kdbench.config.compose import Composer, compose_checked
from kdbench.core.records import records
from kdbench.runs.identity import places_of
from kdbench.runs.plan import Plan, make_plan
from kdbench.runs.weights import teacher_files
from kdbench.tables.definition import Table, overrides_of
from kdbench.teachers.names import teacher_overrides
from kdbench.teachers.store import MissingTeacherError
from kdbench.utils.hashing import digest, file_hash


@dataclass(frozen=True)
class Cell:
    """One run of a table; `key` tells its record from those of other teachers, data or recipes, and is empty as long
    as its teacher is missing. In a chain the plan is until then that of an ordinary teacher of the same network."""

    plan: Plan = field(repr=False, compare=False)

    pair: str
    loss: str
    seed: int
    overrides: tuple[str, ...]
    key: str
    variant: str = ""

    @property
    def before(self) -> tuple[str, str, str, int] | None:
        """The place in the grid of the run whose student is this one's teacher; None where it is no run's."""
        pair, _, _ = self.pair.rpartition(":")
        return (pair, self.variant, self.loss, self.seed) if ":" in pair else None

    @property
    def about(self) -> str:
        """The cell without its seed, in a few words."""
        variant = f", {self.variant}" if self.variant else ""
        return f"{self.loss}, {self.pair.replace(':', ' -> ')}{variant}"

    @property
    def title(self) -> str:
        """The cell in a few words."""
        return f"{self.about}, seed {self.seed}"


def cells(table: Table) -> list[Cell]:
    """Return every run of the grid, planned and checked.

    Raises:
        ValueError: A run has a mistake, or a chain or a teacher is not possible.
    """
    compose = Composer("train")
    grid: dict[int, list[Cell]] = {seed: [] for seed in table.seeds}
    for pair, variant, loss in itertools.product(
        _with_beginnings(table.pairs), table.variants or {"": []}, table.losses
    ):
        overrides = {seed: tuple(overrides_of(table, pair, variant, loss, seed)) for seed in table.seeds}
        for seed, plan in _plans(compose, overrides, loss).items():
            grid[seed].append(Cell(plan, pair, loss, seed, overrides[seed], "", variant))
    by_seed = [cell for cells_of_seed in grid.values() for cell in cells_of_seed]
    _check_chains(by_seed)
    all_cells, lacking = with_teachers(table, by_seed)
    missing = [str(error) for error in lacking.values() if isinstance(error, MissingTeacherError)]
    if missing and table.teachers == "refuse":
        raise ValueError("\n".join(dict.fromkeys(missing)))
    return all_cells


def _plans(compose: Composer, overrides: Mapping[int, Sequence[str]], loss: str) -> dict[int, Plan]:
    """Plan one run for several seeds; the plans share their parts, which are not set up."""
    first, *others = overrides
    without_seed = [word for word in overrides[first] if word != f"seed={first}"]
    configurations = compose.for_seeds(without_seed, list(overrides))
    plan = _plan(configurations[0], without_seed, loss)
    return {first: plan} | {
        seed: replace(plan, cfg=cfg) for seed, cfg in zip(others, configurations[1:], strict=True)
    }


def _check_chains(grid: Sequence[Cell]) -> None:
    taught = {cell.before for cell in grid}
    for cell in grid:
        place = cell.pair, cell.variant, cell.loss, cell.seed
        if place in taught and cell.plan.loss.predictor is not None:
            raise ValueError(
                f"losses={cell.loss}: its student answers with a head of the loss, and cannot teach the next one of a "
                "chain"
            )


def _with_beginnings(pairs: Sequence[str]) -> list[str]:
    """The pairs, each chain behind its earlier generations."""
    names = [pair.split(":") for pair in pairs]
    return list(dict.fromkeys(":".join(chain[:end]) for chain in names for end in range(2, len(chain) + 1)))


def _plan(cfg: DictConfig, overrides: Sequence[str], loss: str) -> Plan:
    dataset = [word.removeprefix("dataset=") for word in overrides if word.startswith("dataset=")]
    return make_plan(cfg, {"dataset": dataset[-1] if dataset else "", "loss": loss})


def with_teachers(table: Table, grid: Sequence[Cell]) -> tuple[list[Cell], dict[Cell, ValueError]]:
    """The cells with the keys that their teachers' files give them, and what those without one lack: a teacher that
    is to be trained (MissingTeacherError), or the run of the generation before.

    ValueError naming every file that a command line gives and that is not there.
    """
    hashes: dict[tuple[Path, ...], str] = {}
    located, lacking = dict[tuple[str, str, str, int], Cell](), dict[Cell, ValueError]()
    mistakes: dict[str, None] = {}
    there = found(table) if any(cell.before for cell in grid) else {}
    for cell in grid:
        known = replace(cell, key="")
        try:
            if cell.before:
                known = _taught(known, located[cell.before], there)
            files = tuple(teacher_files(known.plan).values())
            if files not in hashes:
                hashes[files] = file_hash(*files)
            known = replace(known, key=_key(known.plan, hashes[files]))
        except MissingTeacherError as error:
            lacking[known] = error
        except ValueError as error:
            if cell.before:
                lacking[known] = error
            else:
                mistakes[str(error)] = None
        located[cell.pair, cell.variant, cell.loss, cell.seed] = known
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return list(located.values()), lacking


def _taught(cell: Cell, before: Cell, there: Mapping[str, Mapping[str, Any]]) -> Cell:
    """The cell with the student of the run before as its teacher; ValueError where there is none."""
    record = there.get(before.key, {})
    if record.get("state") != "done":
        raise ValueError(f"no student of {before.title}")
    checkpoint = f"teacher.checkpoint={record['folder']}"
    if checkpoint in cell.overrides:
        return cell
    standing_in = teacher_overrides(cell.pair.split(":")[-2])
    overrides = [word for word in cell.overrides if word not in standing_in] + ["teacher=run", checkpoint]
    plan = _plan(compose_checked("train", overrides), overrides, cell.loss)
    return replace(cell, plan=plan, overrides=tuple(overrides))


def _key(plan: Plan, teacher: str) -> str:
    return _key_of(plan.names, plan.recipe_hash, teacher, plan.config)


def _key_of(names: Mapping[str, str], recipe: str, teacher: str, config: Mapping[str, Any]) -> str:
    return digest([f"{names['teacher']}:{names['student']}", recipe, teacher, *places_of(config)])


def found(table: Table, left_out: Callable[[ValueError], None] = lambda _: None) -> dict[str, dict[str, Any]]:
    """The records of the table's folder by the key of their cell; a finished one before an unfinished one."""
    by_key: dict[str, dict[str, Any]] = {}
    for folder, record in records(Path(table.output) / "runs", left_out):
        try:
            if record.get("is_stage") or "student" not in record["names"]:
                continue
            teacher = record["teacher"]["file_hash"] if "teacher" in record else file_hash()
            key = _key_of(record["names"], record["hashes"]["recipe"], teacher, record["config"])
            if key not in by_key or record["state"] == "done":
                by_key[key] = {**record, "folder": str(folder)}
        except (KeyError, TypeError) as error:
            left_out(
                ValueError(f"{folder}/record.json is no record of a run ({type(error).__name__}: {error})")
            )
    return by_key
