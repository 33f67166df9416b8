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
    """conf/table/NAME.yaml: the grid pairs x losses x seeds, and how its runs are started.

    pairs: `teacher:student`; a teacher may be a variant, `resnet56@mcmi-0.25`, or several, `resnet56+wrn_40_2`.
    overrides: what all runs have on their command line.
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

    @property
    def title(self) -> str:
        """The cell in a few words."""
        return f"{self.loss}, {self.pair.replace(':', ' -> ')}, seed {self.seed}"


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
            else:
                table[key] = value.split(",") if Table.__annotations__[key].startswith("list") else value
    except OmegaConfBaseException as error:
        raise ValueError(f"table {name}, {error.full_key}: {str(error).splitlines()[0]}") from error
    loaded = OmegaConf.to_object(table)
    assert isinstance(loaded, Table)
    _check(loaded)
    return loaded


def _check(table: Table) -> None:
    for name in ("pairs", "losses", "seeds"):
        values = getattr(table, name)
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name}={','.join(map(str, values))}: give each one once, and at least one")
    for name in ("jobs", "threads", "cohort"):
        if getattr(table, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(table, name)}")
    if stray := [
        pair for pair in table.pairs if not re.fullmatch(r"[^:]+:[^:]+", pair) or pair.startswith("none:")
    ]:
        raise ValueError(f"pairs={stray[0]}: a pair is TEACHER:STUDENT")


def cells(table: Table) -> list[Cell]:
    """Every run of the grid, checked: a mistake in any is a ValueError before the first one starts."""
    teachers: dict[str, str] = {}
    missing: dict[str, str] = {}
    grid = []
    for seed, pair, loss in itertools.product(table.seeds, table.pairs, table.losses):
        teacher, _, student = pair.partition(":")
        overrides = [
            *table.overrides,
            *chosen_by(teacher),
            f"student={student}",
            f"loss={loss}",
            f"seed={seed}",
        ]
        overrides += [f"table_name={table.name}", f"output={table.output}/runs", f"threads={table.threads}"]
        planned = plan(compose_checked("train", overrides), {"dataset": "", "loss": loss})
        if teacher not in teachers and teacher not in missing:
            try:
                teachers[teacher] = file_hash(*teacher_files(planned).values())
            except ValueError as error:
                missing[teacher] = str(error)
        if teacher in missing:
            continue
        key = _key(pair, recipe_hash(planned), teachers[teacher], planned.config["dataset"])
        grid.append(Cell(planned, pair, loss, seed, tuple(overrides), key))
    if missing:
        raise ValueError("\n".join(missing.values()))
    return grid


def _key(pair: str, recipe: str, teacher: str, dataset: dict[str, Any]) -> str:
    return digest([pair, recipe, teacher, dataset.get("path")])


def found(table: Table) -> dict[str, dict[str, Any]]:
    """The records of the table's folder by the key of their cell; a finished one before an unfinished one."""
    by_key: dict[str, dict[str, Any]] = {}
    for folder, record in records(Path(table.output) / "runs"):
        if record.get("is_stage") or "teacher" not in record:
            continue
        pair = f"{record['names']['teacher']}:{record['names']['student']}"
        key = _key(
            pair, record["hashes"]["recipe"], record["teacher"]["file_hash"], record["config"]["dataset"]
        )
        if key not in by_key or record["state"] == "done":
            by_key[key] = {**record, "folder": str(folder)}
    return by_key
