"""Read configuration files, and build objects from configuration nodes."""

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
    """Return the overlays for `experiment=NAME`: those of kdbench, then those in ./experiments, which win."""
    folders = dict.fromkeys((EXPERIMENTS_DIR, Path.cwd() / "experiments"))
    return [file for folder in folders for file in sorted(folder.glob("*.yaml"))]


def companions(dataset: str) -> dict[str, str]:
    """Return the options that a data set chooses by default, by group (conf/companions.yaml)."""
    return dict(_companions_file().get(dataset, {}))


@cache
def _companions_file() -> dict[str, Any]:
    return load_yaml(CONF_DIR / "companions.yaml")


def option_of(group: str, name: str) -> dict[str, Any]:
    """Return the contents of an option's file, merged into the files of its group that its defaults name."""
    own = load_yaml(CONF_DIR / group / f"{name}.yaml")
    names = [name for name in own.pop("defaults", []) if isinstance(name, str) and name != "_self_"]
    parts = [*(option_of(group, name) for name in names), own]
    return {key: value for part in parts for key, value in part.items()}


def load_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        content = OmegaConf.to_container(
            OmegaConf.load(file)
        )  # OmegaConf reads 1e-3 as a number, PyYAML as text
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} should hold keys and values, it holds {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def build(node: DictConfig, **supplied: Any) -> Any:
    """Build the object that a checked `_target_` node describes.

    Args:
        node: The node.
        **supplied: Arguments that are not in the configuration, such as objects.

    Raises:
        ValueError: The target raised it.
    """
    # instantiate would take objects among its arguments for configuration, so they are passed afterwards
    try:
        deferred = instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise
    return deferred(**supplied)


@cache
def allowed_targets() -> tuple[str, ...]:
    """Return the prefixes that `_target_` may have: kdbench, Lightning's trainer, and packages with entry points."""
    return ("kdbench.", "lightning.Trainer", *(f"{package}." for package in sorted(packages())))
