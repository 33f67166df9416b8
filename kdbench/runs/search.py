"""Searches for hyper-parameters (`hparams=wttm`, Hydra's optuna sweeper), judged on held-out training images only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from kdbench.config._hydra import parse_arguments
from kdbench.config.command_line import parse_overrides
from kdbench.config.compose import compose_checked

_SIGNS = ("hparams=", "hydra/sweeper=")
_BEST = "optimization_results.yaml"
"""The file that the sweeper writes at the end of a search."""


def is_search(arguments: Sequence[str]) -> bool:
    """Whether a command line is a search, rather than a grid or a trial of a search."""
    chosen = [word for word in arguments if word.startswith(_SIGNS)]
    many = {"-m", "--multirun"} & set(arguments)
    return bool(many and set(chosen) - {"hparams=null", "hydra/sweeper=basic"})


def check_search(root: str, arguments: Sequence[str]) -> tuple[Path, str]:
    """Check what the trials of a search have in common.

    Returns:
        The file in which the sweeper will write its result, and the title of the score that trials are judged by.

    Raises:
        ValueError: A setting is not possible, or there is no validation split to judge trials on.
    """
    from kdbench.distributed.devices import check_sweep
    from kdbench.runs.plan import make_plan

    options = parse_arguments(arguments)
    given = parse_overrides(options.overrides)
    common = [
        str(one.input_line) for one in given if not (one.is_sweep_override() or one.is_hydra_override())
    ]
    plan = make_plan(compose_checked(root, common), {})
    check_sweep(arguments, [plan.cfg.trainer])
    if "hydra/launcher=cohort" in arguments:
        raise ValueError("hydra/launcher=cohort: the trials of a search come one after another; leave it out")
    if "validation" not in plan.data.eval_splits:
        raise ValueError(
            "a search is judged on held-out training images, never on test, and there are none: "
            "give dataset.validation=N (5000 of CIFAR-100's 50,000 are usual)"
        )
    return Path(plan.cfg.output) / ".sweep" / _BEST, plan.task.title


def print_best(file: Path, metric: str) -> None:
    """Print the result of a search."""
    if file.is_file():
        found = OmegaConf.load(file)
        words = " ".join(f"{key}={value}" for key, value in found.best_params.items())
        print(
            f"best on the validation part, {found.best_value:.2f} % {metric} at the last epoch: {words} ({file})"
        )
