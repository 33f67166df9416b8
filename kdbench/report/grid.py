"""A table as a grid of runs: what it holds, and running what is not there yet."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config import CONF_DIR
from kdbench.plan import Plan, plan, recipe_hash
from kdbench.results import digest, file_hash, records
from kdbench.strict import compose_checked, unknown
from kdbench.teacher.names import chosen_by
from kdbench.weights import teacher_files


@dataclass
class Table:
    """conf/table/NAME.yaml: the grid pairs x variants x losses x seeds, and how its runs are started.

    pairs: `teacher:student`, or `none:student` where no loss looks at a teacher; a teacher may be a variant,
    `resnet56@mcmi-0.25`, or several, `resnet56+wrn_40_2`.
    overrides: what all runs have on their command line. variants: what some have beside that, by a name for them (a
    protocol, a schedule); the runs have none where there are no variants.
    jobs: processes side by side; threads: CPU threads of each.
    cohort: the most runs that one process trains side by side on the same teacher calls; 1 for none.
    cache: store the teacher's answers ahead, where that costs less than asking it anew.
    """

    title: str
    caption: str
    pairs: list[str]
    losses: list[str]
    seeds: list[int]
    overrides: list[str] = field(default_factory=list)
    variants: dict[str, list[str]] = field(default_factory=dict)
    jobs: int = 1
    threads: int = 1
    cohort: int = 8
    cache: bool = True
    name: str = ""
    output: str = ""


@dataclass(frozen=True)
class Cell:
    """One run of a table; `key` tells its record from those of other teachers, data or recipes."""

    planned: Plan = field(repr=False, compare=False)

    pair: str
    loss: str
    seed: int
    overrides: tuple[str, ...]
    key: str
    variant: str = ""

    @property
    def title(self) -> str:
        """The cell in a few words."""
        variant = f"{self.variant}, " if self.variant else ""
        return f"{self.loss}, {self.pair.replace(':', ' -> ')}, {variant}seed {self.seed}"


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
        table: Any = OmegaConf.merge(
            OmegaConf.structured(Table), OmegaConf.load(CONF_DIR / "table" / f"{name}.yaml")
        )
        table.name, table.output = name, str(Path("runs") / "tables" / name)
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if not equals:
                raise ValueError(f"{argument!r} is not KEY=VALUE")
            if key in ("teacher", "student", "loss", "seed"):
                raise ValueError(f"{argument}: a table has pairs=TEACHER:STUDENT,... losses=... seeds=...")
            if key not in table:
                table.overrides.append(argument)
            elif key == "variants":
                table.variants = _chosen(table.variants, value.split(","))
            else:
                table[key] = value.split(",") if Table.__annotations__[key].startswith("list") else value
    except OmegaConfBaseException as error:
        raise ValueError(f"table {name}, {error.full_key}: {str(error).splitlines()[0]}") from error
    loaded = OmegaConf.to_object(table)
    assert isinstance(loaded, Table)
    _check(loaded)
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
    for name in ("jobs", "threads", "cohort"):
        if getattr(table, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(table, name)}")
    if stray := [pair for pair in table.pairs if not re.fullmatch(r"[^:]+:[^:]+", pair)]:
        raise ValueError(f"pairs={stray[0]}: a pair is TEACHER:STUDENT, or none:STUDENT")


def cells(table: Table) -> list[Cell]:
    """Every run of the grid, checked: a mistake in any is a ValueError before the first one starts."""
    teachers: dict[tuple[Path, ...], str] = {}
    missing: dict[str, None] = {}
    variants = table.variants or {"": []}
    grid = []
    for seed, pair, variant, loss in itertools.product(table.seeds, table.pairs, variants, table.losses):
        teacher, _, student = pair.partition(":")
        overrides = [
            *table.overrides,
            *variants[variant],
            *chosen_by(teacher),
            f"student={student}",
            f"loss={loss}",
            f"seed={seed}",
        ]
        overrides += [f"table_name={table.name}", f"output={table.output}/runs", f"threads={table.threads}"]
        planned = plan(compose_checked("train", overrides), {"dataset": "", "loss": loss})
        try:
            files = tuple(teacher_files(planned).values())
        except ValueError as error:
            missing[str(error)] = None
            continue
        if files not in teachers:
            teachers[files] = file_hash(*files)
        key = _key(pair, recipe_hash(planned), teachers[files], planned.config["dataset"])
        grid.append(Cell(planned, pair, loss, seed, tuple(overrides), key, variant))
    if missing:
        raise ValueError("\n".join(missing))
    return grid


def _key(pair: str, recipe: str, teacher: str, dataset: dict[str, Any]) -> str:
    return digest([pair, recipe, teacher, dataset.get("path")])


def found(table: Table) -> dict[str, dict[str, Any]]:
    """The records of the table's folder by the key of their cell; a finished one before an unfinished one."""
    by_key: dict[str, dict[str, Any]] = {}
    for folder, record in records(Path(table.output) / "runs"):
        if record.get("is_stage") or "student" not in record["names"]:
            continue
        pair = f"{record['names']['teacher']}:{record['names']['student']}"
        teacher = record["teacher"]["file_hash"] if "teacher" in record else file_hash()
        key = _key(pair, record["hashes"]["recipe"], teacher, record["config"]["dataset"])
        if key not in by_key or record["state"] == "done":
            by_key[key] = {**record, "folder": str(folder)}
    return by_key
