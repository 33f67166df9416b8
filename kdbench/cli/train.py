"""The command of one run or of a sweep: `python -m kdbench.cli.train loss=wttm seed=1`."""

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
from kdbench.runs.search import check_search, say_best, searches
from kdbench.utils.paths import CONF_DIR, PACKAGE

if TYPE_CHECKING:
    from kdbench.runs.plan import Plan

# torch and Lightning are imported where they are used: most mistakes are said before they are loaded

USAGE, FAILED = 2, 1
_SIGNALLED = 128
"""And the number of the signal, as shells say it."""


def work(root: str, jobs: Sequence[Job], outcomes: list[int]) -> float | None:
    """Run jobs, those of a cohort side by side. Expected failures are one message each, and the rest goes on.

    Returns what a search for hyper-parameters maximises, of the last job: the main score on the validation part at the
    last epoch, in per cent; None where there is no such part.
    """
    from kdbench.core.errors import RunError
    from kdbench.runs.cohort import cohorts
    from kdbench.runs.plan import make_plan

    plans = []
    for job in jobs:
        try:
            plans.append(make_plan(checked(root, job.cfg), job.choices))
        except (RunError, ValueError) as error:
            _say_failure(error, outcomes)
    records = [record for group in cohorts(plans) for record in _run_group(group, outcomes)]
    metric = plans[-1].task.metric if plans else ""
    score = records[-1]["results"]["curve"][-1].get(f"validation/{metric}") if records else None
    return None if score is None else float(score)


def _run_group(group: Sequence[Plan], outcomes: list[int]) -> list[dict[str, Any]]:
    """The records of those that are done."""
    from kdbench.core.errors import Interrupted, RunError
    from kdbench.runs.execute import run_cohort
    from kdbench.training.callbacks import StopOnSignal

    try:
        members = run_cohort(group)
    except Interrupted as error:
        print(f"kdbench: {error}; the same command with resume=true continues", file=sys.stderr)
        raise KeyboardInterrupt(StopOnSignal.asked_by) from None  # which ends a sweep, too
    except (RunError, ValueError) as error:
        _say_failure(error, outcomes)
        return []
    for member in members:
        name = f"{member.name}: " if len(members) > 1 else ""
        if member.error is not None:
            _say_failure(member.error, outcomes, name)
        else:
            outcomes.append(0)
            _say_result(member.record, name)
            print(f"in {member.folder.path}")
    return [member.record for member in members if member.error is None]


def _say_failure(error: Exception, outcomes: list[int], name: str = "") -> None:
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    outcomes.append(FAILED)
    print(f"kdbench: {name}{error}", file=sys.stderr)


def _say_result(record: dict[str, Any], name: str) -> None:
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
    outcomes: list[int] = []
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
    here = os.getpid()

    def task(given: DictConfig | list[Job] | int) -> float | None:
        # Hydra's launchers give one configuration at a time, ours all jobs at once, or how one ended elsewhere
        if isinstance(given, int):
            outcomes.append(given)
            return None
        register()  # submitit and ray bring the task alone to another process
        value = work(root, given if isinstance(given, list) else [current_job(given)], outcomes)
        if os.getpid() != here and any(outcomes):
            raise RuntimeError("the run failed; the lines above say why")
        write_result(value)
        return value

    warnings.formatwarning = _in_words
    try:
        register()
        search = _check(root)
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=root)(task)()
        if search is not None:
            say_best(*search)
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt as stop:
        sys.exit(_SIGNALLED + (stop.args[0] if stop.args else signal.SIGINT))
    sys.exit(max(outcomes, default=0))


_with_place = warnings.formatwarning


def _in_words(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours without its place in the code, which says nothing to a user; others' as Python says them."""
    if Path(filename).is_relative_to(PACKAGE):
        return f"kdbench: {message}\n"
    return _with_place(message, category, filename, lineno, line)


def _check(root: str) -> tuple[Path, str] | None:
    """Find the mistakes of every job on the command line; where a search will leave what it finds."""
    if searches(sys.argv[1:]):
        return check_search(root, sys.argv[1:])
    configurations = [compose_checked(root, overrides) for overrides in command_line_jobs(sys.argv[1:])]
    if not {"--cfg", "-c"} & set(sys.argv):
        from kdbench.distributed.devices import check_sweep
        from kdbench.runs.plan import make_plan

        plans = [make_plan(cfg, {}) for cfg in configurations]
        check_sweep(sys.argv[1:], [plan.cfg.trainer for plan in plans])
    return None


if __name__ == "__main__":
    from kdbench.cli import train  # under its own name: submitit's jobs find the task by it

    train.main()
