"""Everything that uses internals of Hydra, which its minor versions may change.

Nothing else in kdbench imports `hydra._internal`. tests/config/test__hydra.py checks each function here, for Hydra 1.3.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.defaults_list import DefaultsList, Overrides, _create_defaults_list
from hydra._internal.utils import _locate, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from kdbench.utils.paths import CONF_DIR

__all__ = [
    "BasicLauncher",
    "ConfigFiles",
    "apply_overrides",
    "hydra_initialized",
    "locate",
    "parse_arguments",
    "split_sweep",
]


_EMPTY_NODE = "empty_hydra_node"
ConfigStore.instance().store(name=_EMPTY_NODE, node={"hydra": {}})


@contextmanager
def hydra_initialized() -> Iterator[Any]:
    """Initialise Hydra on conf/ within the context, also inside a run that Hydra itself started."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        yield GlobalHydra.instance().hydra


class ConfigFiles:
    """The configuration files of kdbench and of other packages, and the ConfigStore, each read once."""

    def __init__(self) -> None:
        with hydra_initialized() as hydra:
            self._loader = hydra.config_loader
        self._repository = CachingConfigRepository(self._loader.repository)

    def has_group(self, group: str) -> bool:
        """Whether there is a config group of this name."""
        return bool(self._repository.group_exists(group))

    def compose(self, root: str, overrides: Sequence[str]) -> DictConfig:
        """Compose a configuration as `hydra.compose` does, but without Hydra's own node, which takes half of the time.

        Args:
            root: The root configuration.
            overrides: Overrides without those of Hydra itself (`hydra/launcher=...`).

        Raises:
            HydraException: As `hydra.compose` raises it.
        """
        cfg, elements = self._merge(root, overrides)
        OmegaConf.set_struct(cfg, True)
        apply_overrides(elements.config_overrides, cfg)
        with open_dict(cfg):
            cfg.pop("hydra", None)
        return cfg

    def section(self, group: str, option: str) -> Any:
        """Compose one option of a config group alone.

        Returns:
            The section, or None if the option also changes other sections.

        Raises:
            HydraException: There is no such option.
        """
        cfg, elements = self._merge(_EMPTY_NODE, [f"+{group}={option}"])
        packages = [element.package or "" for element in elements.defaults]
        is_alone = all(
            package == group or package.startswith(f"{group}.")
            for package, element in zip(packages, elements.defaults, strict=True)
            if element.config_path != _EMPTY_NODE
        )
        return cfg[group] if is_alone else None

    def _merge(self, root: str, overrides: Sequence[str]) -> tuple[DictConfig, DefaultsList]:
        parsed = Overrides(self._repository, OverridesParser.create().parse_overrides(list(overrides)))
        elements, tree = _create_defaults_list(
            self._repository, root, parsed, prepend_hydra=False, skip_missing=False
        )
        for group, metadata in parsed.override_metadata.items():
            if group.startswith("hydra/"):  # the root chooses Hydra's launcher, which has no node here
                metadata.used = True
        parsed.ensure_overrides_used()
        parsed.ensure_deletions_used()
        elements = [ResultDefault(config_path=_EMPTY_NODE, package=""), *elements]
        cfg = self._loader._compose_config_from_defaults_list(defaults=elements, repo=self._repository)
        return cfg, DefaultsList(elements, tree, parsed.config_overrides, parsed)


def apply_overrides(overrides: Sequence[Override], cfg: DictConfig) -> None:
    """Apply overrides of keys to a composed configuration in place, with Hydra's rules for `+`, `++` and `~`."""
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), cfg)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line as `hydra.main` does: `overrides`, `multirun`, `help`, `cfg`, ..."""
    return get_args_parser().parse_args(list(arguments))


def split_sweep(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of each job of a grid sweep."""
    (jobs,) = BasicSweeper.split_arguments(list(overrides), None)
    return [list(job) for job in jobs]


def locate(target: str) -> Any:
    """Import what a `_target_` names.

    Raises:
        ImportError: There is no such module or attribute.
        ValueError: The target is empty or malformed.
    """
    return _locate(target)
