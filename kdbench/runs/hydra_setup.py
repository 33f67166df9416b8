"""Make schemas, resolvers, launchers and search paths known to Hydra."""

from __future__ import annotations

from contextlib import suppress

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from kdbench.config.build import experiment_files, load_yaml
from kdbench.config.resolvers import _by_dataset, _by_network, _published, _published_pair
from kdbench.config.schema import SCHEMAS
from kdbench.core.plugins import conf_dirs
from kdbench.runs import launchers
from kdbench.runs.resolvers import _of_run


class _OutsideConf(SearchPathPlugin):
    """The conf folders of other packages."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_dirs():
            search_path.append(provider="kdbench.objectives", path=f"file://{folder}")


def register() -> None:
    """Make schemas, resolvers, experiments and outside conf folders known to Hydra (once per process)."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for file in experiment_files():
        # one that is broken is said when it is chosen (kdbench.config.compose), not to everybody
        with suppress(ValueError):
            store.store(group="experiment", name=file.stem, node=load_yaml(file), package="_global_")
    Plugins.instance().register(_OutsideConf)
    launchers.register()
    OmegaConf.register_new_resolver("by_network", _by_network, replace=True)
    OmegaConf.register_new_resolver("by_dataset", _by_dataset, replace=True)
    OmegaConf.register_new_resolver("published_pair", _published_pair, replace=True)
    OmegaConf.register_new_resolver("published", _published, replace=True)
    OmegaConf.register_new_resolver("of_run", _of_run, replace=True)
