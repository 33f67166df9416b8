"""Where conf/ lives, what the roots hold, and how a configuration becomes objects."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.core.plugins import packages
from kdbench.utils.paths import CONF_DIR, EXPERIMENTS_DIR

PRECISIONS = ("fp32", "bf16-teacher", "bf16")


def experiment_files() -> list[Path]:
    """The overlays for `experiment=NAME`: those shipped, then those in ./experiments, which win."""
    folders = dict.fromkeys((EXPERIMENTS_DIR, Path.cwd() / "experiments"))
    return [file for folder in folders for file in sorted(folder.glob("*.yaml"))]


def companions(dataset: str) -> dict[str, str]:
    """What goes with a data set where nothing else is said, by group (conf/companions.yaml)."""
    return dict(load_yaml(CONF_DIR / "companions.yaml").get(dataset, {}))


def option_of(group: str, name: str) -> dict[str, Any]:
    """What the file of an option says, with the files of its group that it begins from."""
    own = load_yaml(CONF_DIR / group / f"{name}.yaml")
    names = [name for name in own.pop("defaults", []) if isinstance(name, str) and name != "_self_"]
    parts = [*(option_of(group, name) for name in names), own]
    return {key: value for part in parts for key, value in part.items()}


def load_yaml(file: Path) -> dict[str, Any]:
    """The keys and values of a YAML file; ValueError naming the file where it holds something else."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))  # whose YAML has 1e-3 as a number
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} should hold keys and values, it holds {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def build(node: DictConfig, **supplied: Any) -> Any:
    """The object that a checked `_target_` node describes, with what only code can supply."""
    # partial first: what instantiate is given itself, it takes for configuration and would build from as well
    try:
        deferred = instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    return deferred(**supplied)


@cache
def allowed_targets() -> tuple[str, ...]:
    """The prefixes that `_target_` may have: ours, Lightning's trainer, and packages that bring something."""
    return ("kdbench.", "lightning.Trainer", *(f"{package}." for package in sorted(packages())))
