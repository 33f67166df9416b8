"""OmegaConf resolvers that read finished runs."""


from __future__ import annotations



from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdbench.runs import launchers
from kdbench.core.plugins import conf_dirs, packages






def _of_run(folder: str | None, what: str) -> Any:
    """Of the network that a finished run trained its `name` or `options`, or the `variant` that it is as a teacher."""
    from kdbench.runs.identity import RUN, sibling_key
    from kdbench.training.run_folder import finished_run

    if folder is None:
        raise ValueError("teacher=run needs the folder of a finished run: teacher=run:FOLDER")
    _, record = finished_run(Path(folder))
    if what == "variant":
        return f"{RUN}{sibling_key(record)[:8]}"
    network = record["config"].get("student") or record["config"]["teacher"]
    return network.get(what)

