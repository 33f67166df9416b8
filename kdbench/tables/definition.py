"""The definition of a table: its YAML file, and what the command line changes in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.messages import unknown
from kdbench.teachers.names import chosen_by, network_chosen
from kdbench.utils.hardware import max_parallel_runs
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
