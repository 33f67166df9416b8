"""The definition of a table: its YAML file, and what the command line changes in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config.messages import unknown
from kdbench.teachers.names import network_overrides, teacher_overrides
from kdbench.utils.hardware import max_parallel_runs
from kdbench.utils.paths import EXPERIMENTS_DIR

TEACHERS = ("train", "refuse")


@dataclass
class Table:
    """A grid of runs, pairs x variants x losses x seeds, and how they are started: experiments/NAME/grid.yaml.

    Attributes:
        title: Title of the table.
        caption: What a reader must know to read it.
        pairs: `teacher:student`, or `none:student` where no loss uses a teacher. A teacher may be a variant,
            `resnet56@mcmi-0.25`, or an ensemble, `resnet56+wrn_40_2`. A chain, `resnet56:resnet20:resnet20`, is one
            pair per generation: the teacher of a generation is the student of the one before, trained with the same
            loss, variant and seed.
        losses: Names of losses.
        seeds: Seeds.
        overrides: Overrides of all runs.
        extra_overrides: Overrides that the command line adds; they come last.
        variants: Overrides of some of the runs by a name, such as a protocol or a schedule.
        jobs: Number of processes at a time.
        threads: CPU threads of each process.
        cohort: The largest number of runs that one process trains together on the same teacher forward passes; 1
            trains every run alone.
        cache: Store the teacher's outputs in advance where this costs less than computing them again.
        teachers: `train` trains missing teachers first, `refuse` is an error where one is missing.
        teacher_overrides: Additional overrides of teachers that are trained.
        timeout: Minutes that a process may take.
        teacher_timeout: Minutes that the training of a teacher may take.
        retries: How often a failed process is started again.
        devices: CUDA devices of each process; None leaves this to its runs.
        pin: Pin each process to CPU cores of its own.
        name: Name of the table.
        output: Folder of its runs and results.
    """

    title: str
    caption: str
    pairs: list[str]
    losses: list[str]
    seeds: list[int]
    overrides: list[str] = field(default_factory=list)
    extra_overrides: list[str] = field(default_factory=list)
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


def tables() -> dict[str, Path]:
    """Return the grid file of each table by its name: those of kdbench, then those in ./experiments, which win."""
    folders = dict.fromkeys((EXPERIMENTS_DIR, Path.cwd() / "experiments"))
    files = {file.parent.name: file for folder in folders for file in folder.glob("*/grid.yaml")}
    return dict(sorted(files.items()))


def load_table(name: str, arguments: list[str]) -> Table:
    """Load a table and apply the command line to it.

    Args:
        name: Name of the table.
        arguments: `KEY=VALUE` for keys of the table, with commas between the items of a list; everything else is an
            override of all runs.

    Raises:
        ValueError: There is no such table, key or value; the message names what is possible.
    """
    files = tables()
    if name not in files:
        raise ValueError(unknown(name, name, files).replace("unknown key", "there is no table"))
    try:
        content: Any = OmegaConf.load(files[name])
        table: Any = OmegaConf.merge(OmegaConf.structured(Table), content)
        table.name, table.output = name, str(Path("runs") / "tables" / name)
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if not equals:
                raise ValueError(f"{argument!r} is not KEY=VALUE")
            if key in ("teacher", "student", "loss", "seed"):
                raise ValueError(f"{argument}: a table has pairs=TEACHER:STUDENT,... losses=... seeds=...")
            if key not in table:
                table.extra_overrides.append(argument)
            elif key == "variants":
                table.variants = _select(table.variants, value.split(","))
            else:
                table[key] = value.split(",") if Table.__annotations__[key].startswith("list") else value
    except OmegaConfBaseException as error:
        raise ValueError(f"table {name}, {error.full_key}: {str(error).splitlines()[0]}") from error
    loaded = OmegaConf.to_object(table)
    assert isinstance(loaded, Table)
    _check(loaded)
    if "jobs" not in content and not any(argument.startswith("jobs=") for argument in arguments):
        loaded.jobs = max_parallel_runs(loaded.threads)
    return loaded


def _select(variants: dict[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    for name in names:
        if name not in variants:
            raise ValueError(unknown(name, name, variants).replace("unknown key", "there is no variant"))
    return {name: variants[name] for name in names}


def _check(table: Table) -> None:
    for name in ("pairs", "losses", "seeds"):
        values = getattr(table, name)
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name}={','.join(map(str, values))}: list at least one, and each once")
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
    """Return the overrides of one run of the grid.

    In a chain, the teacher is an ordinary one of the same network, until the run that trains it is done.
    """
    *_, teacher, student = pair.split(":")
    return [
        *table.overrides,
        *table.variants.get(variant, []),
        *table.extra_overrides,
        *teacher_overrides(teacher),
        *network_overrides("student", student),
        *(f"loss={loss}", f"seed={seed}", f"table_name={table.name}"),
        *(f"output={table.output}/runs", f"threads={table.threads}"),
    ]
