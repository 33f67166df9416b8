"""A table as a grid of runs: what it holds, and running what is not there yet."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.compose import Composer
from kdbench.config.messages import unknown
from kdbench.runs.identity import places_of
from kdbench.runs.plan import Plan, make_plan, recipe_hash
from kdbench.runs.weights import teacher_files
from kdbench.teachers.names import chosen_by, network_chosen
from kdbench.teachers.store import MissingTeacherError
from kdbench.training.run_folder import records
from kdbench.utils.hardware import max_parallel_runs
from kdbench.utils.hashing import digest, file_hash
from kdbench.utils.paths import CONF_DIR

TEACHERS = ("train", "refuse")


@dataclass
class Table:
    """conf/table/NAME.yaml: the grid pairs x variants x losses x seeds, and how its runs are started.

    pairs: `teacher:student`, or `none:student` where no loss looks at a teacher; a teacher may be a variant,
    `resnet56@mcmi-0.25`, or several, `resnet56+wrn_40_2`. A chain, `resnet56:resnet20:resnet20`, is a pair for each
    generation: the teacher of a later one is the student of the one before, of the same loss, variant and seed.
    overrides: what all runs have on their command line; further: those that this command adds, which come last.
    variants: what some have between them, by a name for it (a protocol, a schedule); the runs have none where there are
    no variants.
    jobs: processes side by side; threads: CPU threads of each.
    cohort: the most runs that one process trains side by side on the same teacher calls; 1 for none.
    cache: store the teacher's answers ahead, where that costs less than asking it anew.
    teachers: whether those that are not there are trained first, or refused. teacher_overrides: what their command
    lines have beside what names them.
    timeout: minutes that a process may take, teacher_timeout: that of a teacher; retries: how often one that fails is
    tried again; devices: CUDA devices of each, null: what its runs ask for; pin: keep each on CPU cores of its own.
    """

    title: str
    caption: str
    pairs: list[str]
    losses: list[str]
    seeds: list[int]
    overrides: list[str] = field(default_factory=list)
    further: list[str] = field(default_factory=list)
    variants: dict[str, list[str]] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 1
    cohort: int = 8
    cache: bool = True
    teachers: str = "train"
    teacher_overrides: list[str] = field(default_factory=list)
    timeout: float | None = None
    teacher_timeout: float | None = None
    retries: int = 1
    devices: int | None = None
    pin: bool = False
    name: str = ""
    output: str = ""


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


def tables() -> list[str]:
    """The names of all tables."""
    return sorted(file.stem for file in (CONF_DIR / "table").glob("*.yaml"))


def load_table(name: str, arguments: list[str]) -> Table:
    """A table with what the command line changes: keys of the table (lists with commas), else run overrides.

    Raises ValueError naming what is possible.
    """
    if name not in tables():
        raise ValueError(unknown(name, name, tables()).replace("unknown key", "there is no table"))
    try:
        said: Any = OmegaConf.load(CONF_DIR / "table" / f"{name}.yaml")
        table: Any = OmegaConf.merge(OmegaConf.structured(Table), said)
        table.name, table.output = name, str(Path("runs") / "tables" / name)
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if not equals:
                raise ValueError(f"{argument!r} is not KEY=VALUE")
            if key in ("teacher", "student", "loss", "seed"):
                raise ValueError(f"{argument}: a table has pairs=TEACHER:STUDENT,... losses=... seeds=...")
            if key not in table:
                table.further.append(argument)
            elif key == "variants":
                table.variants = _chosen(table.variants, value.split(","))
            else:
                table[key] = value.split(",") if Table.__annotations__[key].startswith("list") else value
    except OmegaConfBaseException as error:
        raise ValueError(f"table {name}, {error.full_key}: {str(error).splitlines()[0]}") from error
    loaded = OmegaConf.to_object(table)
    assert isinstance(loaded, Table)
    _check(loaded)
    if "jobs" not in said and not any(argument.startswith("jobs=") for argument in arguments):
        loaded.jobs = max_parallel_runs(loaded.threads)
    return loaded


def _chosen(variants: dict[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    for name in names:
        if name not in variants:
            raise ValueError(unknown(name, name, variants).replace("unknown key", "there is no variant"))
    return {name: variants[name] for name in names}


def _check(table: Table) -> None:
    for name in ("pairs", "losses", "seeds"):
        values = getattr(table, name)
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name}={','.join(map(str, values))}: give each one once, and at least one")
    for name in ("jobs", "threads", "cohort", "devices"):
        if (getattr(table, name) or 1) < 1 or getattr(table, name) == 0:
            raise ValueError(f"{name} must be at least 1, got {getattr(table, name)}")
    if table.retries < 0 or (table.timeout is not None and table.timeout <= 0):
        raise ValueError(f"retries={table.retries} timeout={table.timeout}: retries from 0, minutes above 0")
    if table.teachers not in TEACHERS:
        raise ValueError(f"teachers={table.teachers}; possible: {', '.join(TEACHERS)}")
    if stray := [pair for pair in table.pairs if not re.fullmatch(r"[^:]+(:[^:]+)+", pair)]:
        raise ValueError(
            f"pairs={stray[0]}: a pair is TEACHER:STUDENT, none:STUDENT, or a chain TEACHER:STUDENT:STUDENT"
        )


def cells(table: Table) -> list[Cell]:
    """Every run of the grid, checked: a mistake in any is a ValueError before the first one starts."""
    compose = Composer("train")
    variants = table.variants or {"": []}
    grid = []
    for seed, pair, variant, loss in itertools.product(
        table.seeds, _with_beginnings(table.pairs), variants, table.losses
    ):
        overrides = overrides_of(table, pair, variant, loss, seed)
        grid.append(Cell(_plan(compose, overrides, loss), pair, loss, seed, tuple(overrides), "", variant))
    _check_chains(grid)
    grid, lacking = with_teachers(table, grid)
    missing = [str(error) for error in lacking.values() if isinstance(error, MissingTeacherError)]
    if missing and table.teachers == "refuse":
        raise ValueError("\n".join(dict.fromkeys(missing)))
    return grid


def _check_chains(grid: Sequence[Cell]) -> None:
    taught = {cell.before for cell in grid}
    for cell in grid:
        place = cell.pair, cell.variant, cell.loss, cell.seed
        if place in taught and cell.plan.loss.predictor is not None:
            raise ValueError(
                f"losses={cell.loss}: its student answers with a head of the loss, and cannot teach the next one of a "
                "chain"
            )


def overrides_of(table: Table, pair: str, variant: str, loss: str, seed: int) -> list[str]:
    """The command line of one run of the grid; in a chain that of an ordinary teacher of the same network."""
    *_, teacher, student = pair.split(":")
    return [
        *table.overrides,
        *table.variants.get(variant, []),
        *table.further,
        *chosen_by(teacher),
        *network_chosen("student", student),
        *(f"loss={loss}", f"seed={seed}", f"table_name={table.name}"),
        *(f"output={table.output}/runs", f"threads={table.threads}"),
    ]


def _with_beginnings(pairs: Sequence[str]) -> list[str]:
    """The pairs, each chain behind its earlier generations."""
    names = [pair.split(":") for pair in pairs]
    return list(dict.fromkeys(":".join(chain[:end]) for chain in names for end in range(2, len(chain) + 1)))


def _plan(compose: Composer, overrides: Sequence[str], loss: str) -> Plan:
    dataset = [word.removeprefix("dataset=") for word in overrides if word.startswith("dataset=")]
    return make_plan(compose(overrides), {"dataset": dataset[-1] if dataset else "", "loss": loss})


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
    standing_in = chosen_by(cell.pair.split(":")[-2])
    overrides = [word for word in cell.overrides if word not in standing_in] + ["teacher=run", checkpoint]
    plan = _plan(Composer("train"), overrides, cell.loss)
    return replace(cell, plan=plan, overrides=tuple(overrides))


def _key(plan: Plan, teacher: str) -> str:
    return _key_of(plan.names, recipe_hash(plan), teacher, plan.config)


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
