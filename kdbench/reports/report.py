"""A report: everything that its forms show, from the runs found in folders and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.config.messages import unknown
from kdbench.reports.aggregate import Series, gather
from kdbench.reports.compare import Beside
from kdbench.reports.paired_tests import REFERENCE, Comparison, comparisons
from kdbench.reports.published import published_for
from kdbench.reports.published_match import Teacher, beside, sources, teachers
from kdbench.reports.read import SCORED_ON, NotCounted, Record, Run, read
from kdbench.runs.identity import Flat, flat
from kdbench.tables.grid import Table, load_table, tables

Line = tuple[Series, Beside | None]
"""A row, and the published value beside it."""


@dataclass(frozen=True)
class Report:
    """What was found and what follows from it. command: what makes it again."""

    title: str
    caption: str
    command: str
    lines: list[Line]
    comparisons: list[Comparison]
    teachers: list[Teacher]
    left: list[NotCounted]

    @property
    def series(self) -> list[Series]:
        """The rows."""
        return [series for series, _ in self.lines]

    @property
    def runs(self) -> list[Run]:
        """All that is counted, in the order of the rows; one that is scored on several sets once."""
        return counted(self.series)


def report_on(what: Sequence[str], command: str, against: str = REFERENCE) -> Report:
    """The report on tables (by name), run folders and results.jsonl files; ValueError where nothing is found."""
    runs, left = read([place_of(name) for name in what])
    series, twice = gather(runs)
    left += twice
    losses = {one.row.loss for one in series}
    if against not in {"all", REFERENCE, *losses}:
        raise ValueError(
            f"--against={against}: no run has that loss; possible: all, {', '.join(sorted(losses))}"
        )
    if not series:
        said = "".join(f"\n  {one.where}: {one.reason}" for one in left[:10])
        raise ValueError(f"no finished run of a student in {', '.join(what)}{said}")
    named = list(dict.fromkeys(str(run.record["table"]) for run in runs if run.record.get("table")))
    named += [name for name in what if name in tables() and name not in named]
    published = sources(named)
    table = _table(named)
    return Report(
        table.title if table else _title(series),
        table.caption.strip() if table else "",
        command,
        [(one, beside(one, published)) for one in series],
        comparisons(series, against),
        teachers(series),
        left,
    )


class NoRunsError(ValueError):
    """A table of which no run is at hand, or whose numbers are published and have no grid here."""

    def __init__(self, table: str, message: str) -> None:
        super().__init__(message)
        self.table = table


def place_of(name: str) -> Path:
    """The folder or file meant; for a table its runs here, or else what was committed of it.

    ValueError where a table has neither.
    """
    if name not in tables():
        if not Path(name).exists() and "/" not in name:
            if published_for(name) is not None:
                raise NoRunsError(name, f"{name}: kdbench has no grid for these published numbers")
            raise ValueError(
                unknown(name, name, tables()).replace("unknown key", "there is no folder and no table")
            )
        return Path(name)
    here, committed = Path("runs") / "tables" / name, committed_results(name)
    for place in (here, committed):
        if place.exists():
            return place
    raise NoRunsError(
        name, f"table {name} has no runs here ({here}) yet: kdbench table {name}; or give folders"
    )


def committed_results(table: str) -> Path:
    """The records of a table that a checkout or wheel brings."""
    from kdbench.utils.paths import EXPERIMENTS_DIR

    return EXPERIMENTS_DIR / table / "results.jsonl"


def _table(named: Sequence[str]) -> Table | None:
    """The table that all of it is about, if it is one."""
    return load_table(named[0], []) if len(named) == 1 and named[0] in tables() else None


def counted(series: Sequence[Series]) -> list[Run]:
    """The runs of these rows, each once."""
    return [run for one in series for run in one.runs if SCORED_ON not in run.record]


def _title(series: Sequence[Series]) -> str:
    data = ", ".join(dict.fromkeys(one.row.dataset for one in series))
    students = list(dict.fromkeys(one.row.pair.partition(":")[2] for one in series))
    said = ", ".join(students) if len(students) <= 3 else f"{len(students)} students"
    return f"{said} on {data}: {len(counted(series))} runs"


ORIGIN = ("machine", "CPUs", "threads", "python", "torch", "lightning", "kdbench", "commit")


def origin(record: Record) -> dict[str, str]:
    """Where a run was made, by `ORIGIN`; `-` for what its record does not say."""
    machine, versions = record.get("machine") or {}, record.get("versions") or {}
    sessions = record.get("sessions") or []
    values: Mapping[str, Any] = {
        "machine": machine.get("processor"),
        "CPUs": machine.get("cpus"),
        "threads": record.get("threads"),
        **{name: versions.get(name) for name in ("python", "torch", "lightning", "kdbench")},
        "commit": record.get("commit"),
    }
    said = {name: "-" if values[name] is None else str(values[name]) for name in ORIGIN}
    return said | {"resumed": f"{len(sessions)} times" if sessions else ""}


def origins(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Every different origin, with the number of its runs."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for run in runs:
        key = tuple(origin(run.record).items())
        counts[key] = counts.get(key, 0) + 1
    return [{"runs": str(count), **dict(key)} for key, count in counts.items()]


NOT_RECIPE = ("output", "tags", "table_name", "progress", "resume", "overwrite", "seed")
"""Keys of a configuration in which runs of a report differ without being different."""


def configuration(record: Record) -> Flat:
    """What a run was told, without names and places."""
    config = {key: value for key, value in (record.get("config") or {}).items() if key not in NOT_RECIPE}
    return flat(config)


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys in which the configurations at hand are not all the same."""
    configs = [configuration(run.record) for run in runs if "config" in run.record]
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if len({config.get(name) for config in configs}) > 1]
