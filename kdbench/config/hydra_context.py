"""Hydra, initialised on the configuration folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from kdbench.utils.paths import CONF_DIR


@contextmanager
def in_hydra() -> Iterator[Any]:
    """Within: Hydra composes what conf/ says."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        yield GlobalHydra.instance().hydra
