"""The command of one run or of a sweep: `python -m kdbench.train loss=wttm seed=1`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from kdbench.config import CONF_DIR, PACKAGE, register
from kdbench.launchers import Job, current_job
from kdbench.strict import checked, command_line_jobs, compose_checked, spelled_out

if TYPE_CHECKING:
    from kdbench.plan import Plan

# torch and Lightning are imported where they are used: most mistakes are said before they are loaded

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def work(root: str, jobs: Sequence[Job], outcomes: list[int]) -> None:
    """Run jobs, those of a cohort side by side. Expected failures are one message each, and the rest goes on."""
    from kdbench.cohort import cohorts
    from kdbench.core import RunError
    from kdbench.plan import plan

    plans = []
    for job in jobs:
        try:
            plans.append(plan(checked(root, job.cfg), job.choices))
        except (RunError, ValueError) as error:
            _say_failure(error, outcomes)
    for group in cohorts(plans):
        _run_group(group, outcomes)


def _run_group(group: Sequence[Plan], outcomes: list[int]) -> None:
    from kdbench.core import RunError
    from kdbench.run import run_cohort
    from kdbench.student import Interrupted

    try:
        members = run_cohort(group)
    except Interrupted as error:
        print(f"kdbench: {error}; the same command with resume=true continues", file=sys.stderr)
        raise KeyboardInterrupt from None  # which ends a sweep, too
    except (RunError, ValueError) as error:
        _say_failure(error, outcomes)
        return
    for member in members:
        name = f"{member.name}: " if len(members) > 1 else ""
        if member.error is not None:
            _say_failure(member.error, outcomes, name)
        else:
            outcomes.append(0)
            _say_result(member.record, name)


def _say_failure(error: Exception, outcomes: list[int], name: str = "") -> None:
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    outcomes.append(FAILED)
    print(f"kdbench: {name}{error}", file=sys.stderr)


def _say_result(record: dict[str, Any], name: str) -> None:
    from kdbench.core import TASKS
    from kdbench.metrics import in_groups

    task, results = TASKS[record.get("task", "images")], record["results"]
    last, metric = results["last"], task.metric
    agreement = f", agrees with the teacher on {last['agreement']:.2f} %" if "agreement" in last else ""
    top5 = f" (top-5 {last['top5']:.2f} %)" if "top5" in last else ""
    protocol = f" ({record['protocol']})" if record.get("protocol") else ""
    selected = next(key for key in ("best_on_test", "best_validation", "last") if key in results)
    best = results[selected]
    print(
        f"{name}test {task.title} {last[metric]:.2f} %{top5} at the last epoch {last['epoch']}"
        f"{protocol}{in_groups(last)}{agreement}; "
        f"{selected} {best[metric]:.2f} % at epoch {best['epoch']}; {record['seconds']:.0f} s"
    )


def main(root: str = "train") -> None:
    """Check the whole command line before any work, then hand it to Hydra."""
    outcomes: list[int] = []
    sys.argv[1:] = spelled_out(sys.argv[1:], root)

    def task(given: DictConfig | list[Job]) -> None:
        # Hydra's launchers give one configuration at a time, ours gives all jobs at once
        work(root, given if isinstance(given, list) else [current_job(given)], outcomes)

    warnings.formatwarning = _in_words
    try:
        register()
        _check(root)
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=root)(task)()
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(max(outcomes, default=0))


_with_place = warnings.formatwarning


def _in_words(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours without its place in the code, which says nothing to a user; others' as Python says them."""
    if Path(filename).is_relative_to(PACKAGE):
        return f"kdbench: {message}\n"
    return _with_place(message, category, filename, lineno, line)


def _check(root: str) -> None:
    """Find the mistakes of every job on the command line."""
    configurations = [compose_checked(root, overrides) for overrides in command_line_jobs(sys.argv[1:])]
    if not {"--cfg", "-c"} & set(sys.argv):
        from kdbench.plan import plan

        for cfg in configurations:
            plan(cfg, {})


if __name__ == "__main__":
    main()
