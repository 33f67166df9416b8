"""How Hydra starts the jobs of a sweep: `hydra/launcher=cohort` hands them over all at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from omegaconf import DictConfig


@dataclass(frozen=True)
class Job:
    """What a command line asks for once: a configuration, and which choice of each group made it."""

    cfg: DictConfig
    choices: dict[str, str]


def current_job(cfg: DictConfig) -> Job:
    """The job that Hydra is at."""
    return Job(cfg, dict(HydraConfig.get().runtime.choices))


class CohortLauncher(BasicLauncher):
    """Composes every job as Hydra's own launcher does, and gives the task all of them in one call."""

    __module__ = "hydra_plugins.kdbench"

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweep, in cohorts."""
        together: Any = self.task_function
        self.task_function = current_job
        composed = super().launch(job_overrides, initial_job_idx)
        together([job.return_value for job in composed])
        return composed


def register() -> None:
    """Make the launcher known to Hydra.

    Hydra takes launchers from the package `hydra_plugins` alone and looks their names up in it, so this module is
    shown there under a second name: what is installed then stays one package, and works wherever it can be imported.
    """
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ImportError:  # nobody else has a plugin
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []
    _, _, name = CohortLauncher.__module__.partition(".")
    sys.modules[CohortLauncher.__module__] = sys.modules[__name__]
    setattr(plugins, name, sys.modules[__name__])
    Plugins.instance().register(CohortLauncher)
    target = {"_target_": f"{CohortLauncher.__module__}.{CohortLauncher.__name__}"}
    ConfigStore.instance().store(group="hydra/launcher", name="cohort", node=target)
