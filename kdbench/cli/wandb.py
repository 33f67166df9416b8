"""`kdbench wandb sync|dashboard TABLE`: upload offline runs to Weights & Biases, or create a workspace there."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbench.cli.errors import command
from kdbench.config.compose import compose_checked
from kdbench.core.errors import RunError
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.tables.definition import load_table, overrides_of, tables
from kdbench.tasks import Task, task_of_record
from kdbench.training.loggers import SENT, why_offline
from kdbench.training.run_folder import RunFolder

_WAITING, _DONE = "run-*.wandb", ".synced"


@command
def main(arguments: Sequence[str]) -> int:
    """Run one of the actions; return 1 if W&B is offline, or the exit code of `wandb sync`."""
    options = _options(arguments)
    if options.what == "sync":
        return _sync(Path(options.output or f"runs/tables/{options.table}"), options.dry_run)
    return _dashboard(options.table, options.entity, options.project)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kdbench wandb")
    commands = parser.add_subparsers(dest="what", required=True)
    sync = commands.add_parser("sync", help="upload the runs of a table that were offline, or broken off")
    sync.add_argument("table")
    sync.add_argument("--output", help="another folder with runs than runs/tables/TABLE")
    sync.add_argument("--dry-run", action="store_true", help="say what would be uploaded")
    board = commands.add_parser("dashboard", help="a workspace in W&B that compares the losses of a table")
    board.add_argument("table")
    board.add_argument("--entity", required=True, help="the user or team in W&B")
    board.add_argument("--project", default="kdbench")
    return parser.parse_args(arguments)


def waiting_runs(folder: Path) -> list[Path]:
    """Return the W&B runs in a folder of run folders that were not uploaded completely, oldest first.

    Such a run was offline, lost its connection, or was killed. A resumed run of kdbench has several W&B runs. Runs
    that are being trained now are left out.

    Args:
        folder: A folder of run folders.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    waiting = [
        log.parent
        for log in folder.glob(f"**/wandb/*run-*/{_WAITING}")
        if not log.parent.is_symlink()
        and not log.with_name(log.name + _DONE).is_file()
        and not (log.parent / SENT).is_file()
        and not _at_work(log.parents[2])
    ]
    return sorted(waiting, key=lambda run: run.name.removeprefix("offline-"))


def _at_work(run: Path) -> bool:
    """Return whether a process is training this run now."""
    folder = RunFolder(run)
    try:
        folder.open()
    except RunError:
        return True
    folder.close()
    return False


def _sync(folder: Path, dry_run: bool) -> int:
    runs = waiting_runs(folder)
    print(f"{len(runs)} run(s) of W&B in {folder} to upload")
    if dry_run or not runs:
        print("".join(f"  {run}\n" for run in runs), end="")
        return 0
    if reason := why_offline():
        print(f"kdbench: not uploaded: {reason}", file=sys.stderr)
        return 1
    return subprocess.run([sys.executable, "-m", "wandb", "sync", "--yes", *map(str, runs)]).returncode


def dashboard(table: str, entity: str, project: str) -> Any:
    """Return a wandb_workspaces Workspace of a table: scores by loss, their curves, and the training time.

    Raises:
        ValueError: The package wandb_workspaces is missing.
    """
    try:
        panels: Any = importlib.import_module("wandb_workspaces.reports.v2")
        workspaces: Any = importlib.import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise ValueError("kdbench wandb dashboard needs pip install -e '.[dashboard]'") from error
    loss, task = panels.Config("loss_name"), _task(table)
    score = f"last/{task.metric}"
    accuracy = [
        panels.BarPlot(
            title=f"{words}: mean over seeds, standard deviation",
            metrics=[panels.SummaryMetric(metric)],
            groupby=loss,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for words, metric in (
            (f"{task.title} at the last epoch, %", score),
            ("agreement with the teacher, %", "last/agreement"),
            ("ECE, %", "last/ece"),
        )
    ]
    course = [
        panels.LinePlot(title=title, x="epoch", y=[metric], groupby=loss, groupby_rangefunc="stddev")
        for title, metric in (
            (f"{task.title} on test, %", f"test/{task.metric}"),
            ("loss in training", "train/total"),
        )
    ]
    price = [panels.ScatterPlot(title=f"{task.title} against seconds", x="seconds", y=score)]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"kdbench: {table}",
        sections=[
            workspaces.Section(name="Losses compared", panels=accuracy, is_open=True),
            workspaces.Section(name="Course of training", panels=course, is_open=True),
            workspaces.Section(name="Price", panels=price, is_open=True),
            workspaces.Section(name="What differs between runs", panels=[panels.RunComparer(diff_only=True)]),
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=workspaces.And(workspaces.Config("table") == table),
            groupby=[workspaces.Config("pair"), workspaces.Config("loss_name")],
            pinned_columns=[
                f"summary:{name}/{task.metric}"
                for name in ("last", "best_on_test", "best_validation", "teacher")
            ],
        ),
    )


def _task(table: str) -> Task[Any]:
    """Return the task of a table; image classification if there is no table of that name."""
    if table not in tables():
        return task_of_record({})
    register()
    known = load_table(table, [])
    variant = next(iter(known.variants), "")
    overrides = overrides_of(known, known.pairs[0], variant, known.losses[0], known.seeds[0])
    return make_plan(compose_checked("train", overrides), {}).task


def _dashboard(table: str, entity: str, project: str) -> int:
    workspace = dashboard(table, entity, project)
    if reason := why_offline():
        print(f"kdbench: the page is not made: {reason}", file=sys.stderr)
        return 1
    workspace.save()
    print(workspace.url)
    return 0
