"""The command of one run or of a sweep: `python -m kdbench.train loss=wttm seed=1`."""

from __future__ import annotations

import os
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kdbench.config import CONF_DIR, register
from kdbench.strict import checked, command_line_jobs, compose_checked

# torch and Lightning are imported where they are used: most mistakes are said before they are loaded

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def job(root: str, cfg: DictConfig, outcomes: list[int]) -> None:
    """One Hydra job: a run whose expected failures are one message each, so that a sweep goes on."""
    from kdbench.core import RunError
    from kdbench.plan import plan
    from kdbench.run import run
    from kdbench.student import Interrupted

    choices = dict(HydraConfig.get().runtime.choices)
    try:
        record = run(plan(checked(root, cfg), choices))
        outcomes.append(0)
        _say_result(record)
    except Interrupted as error:
        print(f"kdbench: {error}; the same command with resume=true continues", file=sys.stderr)
        raise KeyboardInterrupt from None  # which ends a sweep, too
    except (RunError, ValueError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        outcomes.append(FAILED)
        print(f"kdbench: {error}", file=sys.stderr)


def _say_result(record: dict[str, Any]) -> None:
    last, best = record["results"]["last"], record["results"]["best_on_test"]
    agreement = f", agrees with the teacher on {last['agreement']:.2f} %" if "agreement" in last else ""
    print(
        f"test top-1 {last['top1']:.2f} % (top-5 {last['top5']:.2f} %) at the last epoch {last['epoch']}{agreement}; "
        f"best_on_test {best['top1']:.2f} % at epoch {best['epoch']}; {record['seconds']:.0f} s"
    )


def main(root: str = "train") -> None:
    """Check the whole command line before any work, then hand it to Hydra."""
    outcomes: list[int] = []
    try:
        register()
        _check(root)
        task = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=root)
        task(lambda cfg: job(root, cfg, outcomes))()
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(max(outcomes, default=0))


def _check(root: str) -> None:
    """Find the mistakes of every job on the command line."""
    configurations = [compose_checked(root, overrides) for overrides in command_line_jobs(sys.argv[1:])]
    if not {"--cfg", "-c"} & set(sys.argv):
        from kdbench.plan import plan

        for cfg in configurations:
            plan(cfg, {})


if __name__ == "__main__":
    main()
