"""The command of a run or a sweep: `python -m kdbench.cli.train loss=wttm seed=1`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from kdbench.config.command_line import command_line_jobs, expand_short_forms
from kdbench.config.compose import checked, compose_checked
from kdbench.jobs.worker import follow_launcher, write_result
from kdbench.runs.hydra_setup import register
from kdbench.runs.launchers import Job, current_job
from kdbench.runs.search import check_search, is_search, print_best
from kdbench.utils.paths import CONF_DIR, PACKAGE

if TYPE_CHECKING:
    from kdbench.runs.plan import Plan

# torch and Lightning are imported where they are used, so that most mistakes are reported before they are loaded

USAGE, FAILED = 2, 1
_SIGNALLED = 128
"""Plus the number of the signal: the exit code, as in shells."""


def run_jobs(root: str, jobs: Sequence[Job], exit_codes: list[int]) -> float | None:
    """Run jobs, those of a cohort side by side. An expected failure prints one message, and the other jobs go on.

    Args:
        root: `train` or `train_teacher`.
        jobs: The jobs.
        exit_codes: Receives one exit code per job.

    Returns:
        The score that a search for hyper-parameters maximises, of the last job: the main score on the validation split
        at the last epoch, in per cent; None without such a split.
    """
    from kdbench.core.errors import RunError
    from kdbench.runs.cohort import cohorts
    from kdbench.runs.plan import make_plan

    plans = []
    for job in jobs:
        try:
            plans.append(make_plan(checked(root, job.cfg), job.choices))
        except (RunError, ValueError) as error:
            _print_failure(error, exit_codes)
    records = [record for group in cohorts(plans) for record in _run_group(group, exit_codes)]
    metric = plans[-1].task.metric if plans else ""
    score = records[-1]["results"]["curve"][-1].get(f"validation/{metric}") if records else None
    return None if score is None else float(score)


def _run_group(group: Sequence[Plan], exit_codes: list[int]) -> list[dict[str, Any]]:
    """Train one cohort; return the records of the runs that are done."""
    from kdbench.core.errors import Interrupted, RunError
    from kdbench.runs.execute import run_cohort
    from kdbench.training.callbacks import StopOnSignal

    try:
        runs = run_cohort(group)
    except Interrupted as error:
        print(f"kdbench: {error}; the same command with resume=true continues", file=sys.stderr)
        raise KeyboardInterrupt(StopOnSignal.asked_by) from None  # which ends a sweep, too
    except (RunError, ValueError) as error:
        _print_failure(error, exit_codes)
        return []
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        if run.error is not None:
            _print_failure(run.error, exit_codes, name)
        else:
            exit_codes.append(0)
            _print_result(run.record, name)
            print(f"in {run.folder.path}")
    return [run.record for run in runs if run.error is None]


def _print_failure(error: Exception, exit_codes: list[int], name: str = "") -> None:
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    exit_codes.append(FAILED)
    print(f"kdbench: {name}{error}", file=sys.stderr)


def _print_result(record: dict[str, Any], name: str) -> None:
    from kdbench.core.class_groups import describe_groups
    from kdbench.tasks import task_of_record

    task, results = task_of_record(record), record["results"]
    last, metric = results["last"], task.metric
    agreement = f", agrees with the teacher on {last['agreement']:.2f} %" if "agreement" in last else ""
    top5 = f" (top-5 {last['top5']:.2f} %)" if "top5" in last else ""
    protocol = f" ({record['protocol']})" if record.get("protocol") else ""
    selected = next(key for key in ("best_on_test", "best_validation", "last") if key in results)
    best = results[selected]
    print(
        f"{name}test {task.title} {last[metric]:.2f} %{top5} at the last epoch {last['epoch']}"
        f"{protocol}{describe_groups(last)}{agreement}; "
        f"{selected} {best[metric]:.2f} % at epoch {best['epoch']}; {record['seconds']:.0f} s"
    )


def main(root: str = "train") -> None:
    """Check the whole command line before any work, then hand it to Hydra."""
    exit_codes: list[int] = []
    try:
        sys.argv[1:] = expand_short_forms(sys.argv[1:], root)
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        raise SystemExit(USAGE) from None

    if "hydra/launcher=submitit_slurm" in sys.argv and shutil.which("srun") is None:
        print(
            "kdbench: hydra/launcher=submitit_slurm: no srun here; submitit_local needs no SLURM",
            file=sys.stderr,
        )
        raise SystemExit(USAGE)
    follow_launcher()
    main_process = os.getpid()

    def task(given: DictConfig | list[Job] | int) -> float | None:
        # Hydra's launchers pass one configuration; kdbench's pass all jobs at once, or the exit code of one
        if isinstance(given, int):
            exit_codes.append(given)
            return None
        register()  # again, because submitit and ray bring only this function to another process
        jobs = given if isinstance(given, list) else [current_job(given)]
        value = run_jobs(root, jobs, exit_codes)
        if os.getpid() != main_process and any(exit_codes):
            raise RuntimeError("the run failed; the lines above say why")
        write_result(value)
        return value

    warnings.formatwarning = _format_warning
    try:
        register()
        search = _check(root)
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=root)(task)()
        if search is not None:
            print_best(*search)
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt as stop:
        sys.exit(_SIGNALLED + (stop.args[0] if stop.args else signal.SIGINT))
    sys.exit(max(exit_codes, default=0))


_format_with_location = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning of kdbench without its location in the code; warnings of others as Python does."""
    if Path(filename).is_relative_to(PACKAGE):
        return f"kdbench: {message}\n"
    return _format_with_location(message, category, filename, lineno, line)


def _check(root: str) -> tuple[Path, str] | None:
    """Check every job of the command line; return where a search will write its result, and its score."""
    if is_search(sys.argv[1:]):
        return check_search(root, sys.argv[1:])
    configurations = [compose_checked(root, overrides) for overrides in command_line_jobs(sys.argv[1:])]
    if not {"--cfg", "-c"} & set(sys.argv):
        from kdbench.distributed.devices import check_sweep
        from kdbench.runs.plan import make_plan

        plans = [make_plan(cfg, {}) for cfg in configurations]
        check_sweep(sys.argv[1:], [plan.cfg.trainer for plan in plans])
    return None


if __name__ == "__main__":
    from kdbench.cli import train  # under its own name, by which jobs of submitit find the task

    train.main()
