"""A report: the runs in folders and files, aggregated and compared; the input of every output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.reports.aggregate import Series, gather, in_order
from kdbench.reports.columns import results_table
from kdbench.reports.model import Table
from kdbench.reports.paired_tests import REFERENCE, Comparison, comparisons
from kdbench.reports.places import place_of
from kdbench.reports.provenance import differing_keys
from kdbench.reports.published import Published, published_for
from kdbench.reports.published_match import published_sources, with_published
from kdbench.reports.read import SCORED_ON, NotCounted, Record, Run, read
from kdbench.reports.teachers import Teacher, teachers_of
from kdbench.tables.definition import Table as Grid
from kdbench.tables.definition import load_table, tables
from kdbench.tasks import task_of_record

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Report:
    """Everything that the output formats show.

    Attributes:
        title: Title of the table, or what the runs have in common.
        caption: Caption of the table; empty where the report is not about one table.
        command: The command that makes the report again.
        series: The aggregated runs; each is one row.
        sources: The sources of the published values that are shown.
        comparisons: Paired comparisons of losses and of teachers.
        teachers: The teachers of the runs.
        left: What was read and is not counted.
        missing: Runs of the table that are not done, each with the reason.
    """

    title: str
    caption: str
    command: str
    series: list[Series]
    sources: list[Published]
    comparisons: list[Comparison]
    teachers: list[Teacher]
    left: list[NotCounted] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """The counted runs in the order of the rows; a run that is scored on several test sets appears once."""
        return _all_runs(self.series)

    @cached_property
    def results(self) -> Table:
        """The results, one row per series."""
        return results_table(self.series)


def report_on(names: Sequence[str], command: str, against: str = REFERENCE) -> Report:
    """Make a report.

    Args:
        names: Tables by name, run folders and results.jsonl files.
        command: The command that makes the report again.
        against: The loss that the others are compared with within seeds; `all` compares every two.

    Raises:
        NoRunsError: There are no runs of a table.
        ValueError: A place does not exist or has no finished run, or no run has the loss `against`.
    """
    runs, left = read([place_of(name) for name in names])
    series, twice = gather(runs)
    left += twice
    losses = {one.loss for one in series}
    if against not in {"all", REFERENCE, *losses}:
        raise ValueError(
            f"--against={against}: no run has that loss; possible: all, {', '.join(sorted(losses))}"
        )
    if not series:
        reasons = "".join(f"\n  {one.where}: {one.reason}" for one in left[:10])
        raise ValueError(f"no finished run of a student in {', '.join(names)}{reasons}")
    named = list(dict.fromkeys(str(run.record["table"]) for run in runs if run.record.get("table")))
    named += [name for name in names if name in tables() and name not in named]
    grid = load_table(named[0], []) if len(named) == 1 and named[0] in tables() else None
    series = in_order(series, grid.pairs if grid else (), grid.losses if grid else ())
    return _report(grid, series, published_sources(named), command, against, left)


def report_on_table(
    grid: Grid, records: Sequence[Record], command: str, missing: Sequence[str] = ()
) -> Report:
    """Make the report of a table from the records of its runs, compared with the table's own published values.

    Args:
        grid: The table.
        records: Records of its runs, finished or not, in the order of the rows.
        command: The command that makes the table again.
        missing: Runs that are not done, each with the reason.
    """
    runs = [Run(record, record.get("folder", "")) for record in records if record["state"] == "done"]
    series, left = gather(runs)
    source = published_for(grid.name)
    return _report(grid, series, [source] if source else [], command, REFERENCE, left, missing)


def _report(
    grid: Grid | None,
    series: list[Series],
    sources: Sequence[Published],
    command: str,
    against: str,
    left: list[NotCounted],
    missing: Sequence[str] = (),
) -> Report:
    series = with_published(series, sources)
    used = [one.published.source for one in series if one.published]
    used += [one for one in sources if grid and one.table == grid.name and not one.values]  # a note alone
    return Report(
        _title(grid.title if grid else "", series),
        grid.caption.strip() if grid else "",
        command,
        series,
        [source for place, source in enumerate(used) if source not in used[:place]],
        comparisons(series, against),
        teachers_of(series),
        left,
        list(missing),
    )


def _title(title: str, series: Sequence[Series]) -> str:
    """Complete a title with the protocol; without one, name students, data sets and the number of runs."""
    if not title:
        datasets = ", ".join(dict.fromkeys(one.dataset for one in series))
        students = list(dict.fromkeys(one.student for one in series))
        names = ", ".join(students) if len(students) <= 3 else f"{len(students)} students"
        count = len(_all_runs(series))
        title = f"{names} on {datasets}: {count} run{'' if count == 1 else 's'}"
    protocols = {one.protocol for one in series}
    if len(protocols) > 1:
        return f"{title} (several protocols)"
    return f"{title} ({protocol})" if (protocol := "".join(protocols)) else title


def _all_runs(series: Sequence[Series]) -> list[Run]:
    return [run for one in series for run in one.runs if SCORED_ON not in run.record]


def run_values(run: Run) -> dict[str, Any]:
    """Return what a record says about one run, as the columns of `load_frame` without the configuration."""
    record, names, results = run.record, run.record["names"], run.record["results"]
    metric, last = task_of_record(record).metric, results["last"]
    best_key = "best_on_test" if "best_on_test" in results else "best_validation"
    best = results.get(best_key) or {}
    return {
        **{key: names[key] for key in ("dataset", "teacher", "student", "loss")},
        "table": record.get("table"),
        "variant": record.get("variant", ""),
        "protocol": record.get("protocol", ""),
        "seed": run.seed,
        "epochs": last["epoch"],
        "metric": metric,
        **{f"last_{name}": value for name, value in last.items() if name != "epoch"},
        "best_chosen": best_key,
        "best_epoch": best.get("epoch"),
        "best_score": best.get(metric),
        "teacher_score": (record.get("teacher") or {}).get(metric),
        "seconds": run.seconds,
        "recipe": record["hashes"].get("recipe"),
        "commit": record.get("commit"),
        "found": run.where,
    }


def load_frame(folders: Sequence[str | Path] | str | Path = "runs") -> pandas.DataFrame:
    """Read finished runs into a pandas DataFrame, one row per run.

    The columns are:

    * `dataset`, `teacher`, `student`, `loss`: names, as on the command line
    * `table`, `variant`, `protocol`: the table and variant that the run belongs to; what it saw of the training set
    * `seed`, `epochs`: the seed, and the number of the last epoch
    * `metric`: the main score of the task, such as `top1`
    * `last_*`: every score on test at the last epoch: `last_top1`, `last_agreement`, ..., in per cent, except
      `last_nll` in nats; `last_NAME/*` are scores on the additional test set NAME
    * `best_chosen`, `best_epoch`, `best_score`: how the best epoch was chosen (`best_on_test` or `best_validation`),
      its number, and the main score there
    * `teacher_score`: the teacher's main score on test
    * `seconds`: training time without start-up and evaluation
    * `recipe`, `commit`, `found`: hash of the recipe, commit of kdbench, and the run folder or `FILE:LINE`
    * one column for each configuration key in which the runs differ, such as `schedule.lr` or `loss.weights.kd`

    Runs lack a value (None or NaN) where their record does not have it.

    Args:
        folders: Run folders (all runs below), results.jsonl files, or tables by name; one or several.

    Returns:
        The runs, sorted by data set, student, teacher, loss and seed.

    Raises:
        ImportError: pandas is not installed.
        ValueError: A place does not exist.
    """
    pd = _import_pandas()
    places = [folders] if isinstance(folders, str | Path) else folders
    runs, _ = read([place_of(str(place)) for place in places])
    keys = differing_keys(runs)
    rows = [{**run_values(run), **_values_at(run.record.get("config") or {}, keys)} for run in runs]
    order = ["dataset", "student", "teacher", "loss", "seed"]
    frame = pd.DataFrame(rows)
    return frame.sort_values(order, ignore_index=True) if rows else frame


def _values_at(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return configuration values by dotted key; None where a key is missing."""
    return {key: _value_at(config, key.split(".")) for key in keys}


def _value_at(config: Any, path: Sequence[str]) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _import_pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "kdbench.report needs pandas; install it with: pip install 'kdbench[pandas]'"
        ) from error
    return pandas
