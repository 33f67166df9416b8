"""A table as a grid of planned runs, and the records of those that exist."""

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
    """One run of a table.

    Attributes:
        plan: The plan; in a chain, until the teacher exists, that of an ordinary teacher of the same network.
        pair: The pair, or chain, of the table.
        loss: The name of the loss.
        seed: The seed.
        overrides: The command line of the run.
        key: Identifies the record by teacher, data and recipe; empty while the teacher is missing.
        variant: The name of the variant.
    """

    plan: Plan = field(repr=False, compare=False)

    pair: str
    loss: str
    seed: int
    overrides: tuple[str, ...]
    key: str
    variant: str = ""

    @property
    def previous(self) -> tuple[str, str, str, int] | None:
        """Pair, variant, loss and seed of the run that trains this run's teacher in a chain, or None."""
        pair, _, _ = self.pair.rpartition(":")
        return (pair, self.variant, self.loss, self.seed) if ":" in pair else None

    @property
    def description(self) -> str:
        """A short description without the seed."""
        variant = f", {self.variant}" if self.variant else ""
        return f"{self.loss}, {self.pair.replace(':', ' -> ')}{variant}"

    @property
    def title(self) -> str:
        """A short description."""
        return f"{self.description}, seed {self.seed}"


def cells(table: Table) -> list[Cell]:
    """Return every run of the grid, planned and checked.

    Raises:
        ValueError: A run has a mistake, or a chain or a teacher is not possible.
    """
    compose = Composer("train")
    grid: dict[int, list[Cell]] = {seed: [] for seed in table.seeds}
    for pair, variant, loss in itertools.product(
        _with_earlier_generations(table.pairs), table.variants or {"": []}, table.losses
    ):
        overrides = {seed: tuple(overrides_of(table, pair, variant, loss, seed)) for seed in table.seeds}
        for seed, plan in _plans(compose, overrides, loss).items():
            grid[seed].append(Cell(plan, pair, loss, seed, overrides[seed], "", variant))
    by_seed = [cell for cells_of_seed in grid.values() for cell in cells_of_seed]
    _check_chains(by_seed)
    all_cells, errors = with_teachers(table, by_seed)
    missing = [str(error) for error in errors.values() if isinstance(error, MissingTeacherError)]
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
    teachers = {cell.previous for cell in grid}
    for cell in grid:
        place = cell.pair, cell.variant, cell.loss, cell.seed
        if place in teachers and cell.plan.loss.predictor is not None:
            raise ValueError(
                f"losses={cell.loss}: its student answers with a head of the loss, and cannot teach the next one of a "
                "chain"
            )


def _with_earlier_generations(pairs: Sequence[str]) -> list[str]:
    """Return the pairs, each chain after its earlier generations."""
    names = [pair.split(":") for pair in pairs]
    return list(dict.fromkeys(":".join(chain[:end]) for chain in names for end in range(2, len(chain) + 1)))


def _plan(cfg: DictConfig, overrides: Sequence[str], loss: str) -> Plan:
    dataset = [word.removeprefix("dataset=") for word in overrides if word.startswith("dataset=")]
    return make_plan(cfg, {"dataset": dataset[-1] if dataset else "", "loss": loss})


def with_teachers(table: Table, grid: Sequence[Cell]) -> tuple[list[Cell], dict[Cell, ValueError]]:
    """Look for the teachers of all cells.

    Args:
        table: The table.
        grid: The cells.

    Returns:
        The cells with their keys, and the errors of those without a teacher: MissingTeacherError for one that can be
        trained, ValueError for a generation whose predecessor is not done.

    Raises:
        ValueError: A file that the command line names does not exist; the message names all such files.
    """
    hashes: dict[tuple[Path, ...], str] = {}
    located: dict[tuple[str, str, str, int], Cell] = {}
    errors: dict[Cell, ValueError] = {}
    mistakes: dict[str, None] = {}
    existing = records_by_key(table) if any(cell.previous for cell in grid) else {}
    for cell in grid:
        keyed = replace(cell, key="")
        try:
            if cell.previous:
                keyed = _with_previous_student(keyed, located[cell.previous], existing)
            files = tuple(teacher_files(keyed.plan).values())
            if files not in hashes:
                hashes[files] = file_hash(*files)
            keyed = replace(keyed, key=_key(keyed.plan, hashes[files]))
        except MissingTeacherError as error:
            errors[keyed] = error
        except ValueError as error:
            if cell.previous:
                errors[keyed] = error
            else:
                mistakes[str(error)] = None
        located[cell.pair, cell.variant, cell.loss, cell.seed] = keyed
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return list(located.values()), errors


def _with_previous_student(cell: Cell, previous: Cell, existing: Mapping[str, Mapping[str, Any]]) -> Cell:
    """Return the cell with the student of the previous generation as its teacher; ValueError if it is not done."""
    record = existing.get(previous.key, {})
    if record.get("state") != "done":
        raise ValueError(f"no student of {previous.title}")
    checkpoint = f"teacher.checkpoint={record['folder']}"
    if checkpoint in cell.overrides:
        return cell
    placeholder = teacher_overrides(cell.pair.split(":")[-2])
    overrides = [word for word in cell.overrides if word not in placeholder] + ["teacher=run", checkpoint]
    plan = _plan(compose_checked("train", overrides), overrides, cell.loss)
    return replace(cell, plan=plan, overrides=tuple(overrides))


def _key(plan: Plan, teacher: str) -> str:
    return _key_of(plan.names, plan.recipe_hash, teacher, plan.config)


def _key_of(names: Mapping[str, str], recipe: str, teacher: str, config: Mapping[str, Any]) -> str:
    return digest([f"{names['teacher']}:{names['student']}", recipe, teacher, *places_of(config)])


def records_by_key(
    table: Table, on_error: Callable[[ValueError], None] = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Return the records in the folder of a table by the key of their cell; finished ones have precedence.

    Args:
        table: The table.
        on_error: Called with the error of each record that cannot be read.
    """
    by_key: dict[str, dict[str, Any]] = {}
    for folder, record in records(Path(table.output) / "runs", on_error):
        try:
            if record.get("is_stage") or "student" not in record["names"]:
                continue
            teacher = record["teacher"]["file_hash"] if "teacher" in record else file_hash()
            key = _key_of(record["names"], record["hashes"]["recipe"], teacher, record["config"])
            if key not in by_key or record["state"] == "done":
                by_key[key] = {**record, "folder": str(folder)}
        except (KeyError, TypeError) as error:
            on_error(
                ValueError(
                    f"{folder}/record.json is not the record of a run ({type(error).__name__}: {error})"
                )
            )
    return by_key
