"""A table as a grid of runs: what it holds, and running what is not there yet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.config import CONF_DIR
from kdbench.results import digest, records
from kdbench.strict import compose_checked, unknown


@dataclass
class Table:
    """conf/table/NAME.yaml: the grid pairs x losses x seeds, and how its runs are started.

    pairs: `teacher:student`. overrides: what all runs have on their command line.
    jobs: processes side by side; threads: CPU threads of each.
    """

    title: str
    caption: str
    pairs: list[str]
    losses: list[str]
    seeds: list[int]
    overrides: list[str] = field(default_factory=list)
    jobs: int = 1
    threads: int = 1
    name: str = ""
    output: str = ""


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    pair: str
    loss: str
    seed: int
    overrides: tuple[str, ...]
    recipe: str
    """The hash that the record of its run has."""

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
            if key not in table:
                table.overrides.append(argument)
            else:
                table[key] = value.split(",") if Table.__annotations__[key].startswith("list") else value
    except OmegaConfBaseException as error:
        raise ValueError(f"table {name}: {str(error).splitlines()[0]}") from error
    loaded = OmegaConf.to_object(table)
    assert isinstance(loaded, Table)
    return loaded


def cells(table: Table) -> list[Cell]:
    """Every run of the grid, checked: a mistake in any of them is a ValueError before the first one starts."""
    return [
        _cell(table, pair, loss, seed)
        for seed in table.seeds
        for pair in table.pairs
        for loss in table.losses
    ]


def _cell(table: Table, pair: str, loss: str, seed: int) -> Cell:
    from kdbench.plan import plan, recipe_hash

    teacher, colon, student = pair.partition(":")
    if not colon:
        raise ValueError(f"pairs={pair}: a pair is TEACHER:STUDENT")
    overrides = [*table.overrides, f"teacher={teacher}", f"student={student}", f"loss={loss}", f"seed={seed}"]
    overrides += [f"table_name={table.name}", f"output={table.output}/runs", f"threads={table.threads}"]
    cfg = compose_checked("train", overrides)
    return Cell(pair, loss, seed, tuple(overrides), recipe_hash(plan(cfg, {"loss": loss})))


def found(table: Table) -> dict[str, dict[str, Any]]:
    """The records of the table's folder by recipe hash; a finished one before an unfinished one."""
    by_recipe: dict[str, dict[str, Any]] = {}
    for folder, record in records(Path(table.output) / "runs"):
        recipe = record["hashes"]["recipe"]
        if recipe not in by_recipe or record["state"] == "done":
            by_recipe[recipe] = {**record, "folder": str(folder)}
    return by_recipe


@dataclass(frozen=True)
class Outcome:
    """How one run of a table ended."""

    cell: Cell
    failure: str | None
    seconds: float


def run_missing(table: Table, grid: list[Cell], say: Callable[[Outcome], None]) -> Iterator[Outcome]:
    """Run every cell that has no finished record, each in a process of its own; the rest go on when one fails."""
    done = {recipe for recipe, record in found(table).items() if record["state"] == "done"}
    left = [cell for cell in grid if cell.recipe not in done]

    def start(cell: Cell) -> Outcome:
        outcome = _run(table, cell)
        say(outcome)
        return outcome

    with ThreadPoolExecutor(table.jobs) as pool:
        yield from pool.map(start, left)


def _run(table: Table, cell: Cell) -> Outcome:
    logs = Path(table.output) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{digest([*cell.overrides])}.txt"
    command = [sys.executable, "-m", "kdbench.train", *cell.overrides, "resume=true", "progress=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(table.threads), "OMP_WAIT_POLICY": "passive"}
    started = time.monotonic()
    with open(log, "w") as file:
        code = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    failure = None
    if code:
        lines = log.read_text().strip().splitlines()
        failure = f"{lines[-1] if lines else f'exit code {code}'} (log: {log})"
    return Outcome(cell, failure, time.monotonic() - started)
