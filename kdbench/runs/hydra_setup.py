"""Make schemas, generated options, resolvers, launchers and search paths known to Hydra."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from kdbench.config import resolvers
from kdbench.config.build import experiment_files, load_yaml
from kdbench.config.schema import SCHEMAS
from kdbench.core.plugins import conf_dirs
from kdbench.runs import launchers
from kdbench.runs.generated_options import generated_options
from kdbench.runs.resolvers import of_run


class _PluginConf(SearchPathPlugin):
    """The conf folders of other packages."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_dirs():
            search_path.append(provider="kdbench.objectives", path=f"file://{folder}")


def register() -> None:
    """Make schemas, options, resolvers, experiments and other packages' conf folders known to Hydra.

    Calling it again has no effect, except that experiment files are read anew.
    """
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for group, options in generated_options().items():
        for name, node in options.items():
            store.store(group=group, name=name, node=node)
    for file in experiment_files():
        with suppress(ValueError):  # a broken file is reported when it is chosen (kdbench.config.compose)
            store.store(group="experiment", name=file.stem, node=load_yaml(file), package="_global_")
    Plugins.instance().register(_PluginConf)
    launchers.register()
    functions: dict[str, Callable[..., Any]] = {
        "by_network": resolvers.by_network,
        "by_dataset": resolvers.by_dataset,
        "published_pair": resolvers.published_pair,
        "published": resolvers.published,
        "of_run": of_run,
    }
    for name, function in functions.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
