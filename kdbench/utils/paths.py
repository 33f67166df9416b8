"""Folders of the package, its configuration, its experiments and its cache."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

_IS_CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file() and (PACKAGE.parent / "conf").is_dir()

CONF_DIR = PACKAGE.parent / "conf" if _IS_CHECKOUT else PACKAGE / "_conf"

EXPERIMENTS_DIR = PACKAGE.parent / "experiments" if _IS_CHECKOUT else PACKAGE / "_experiments"


def home() -> Path:
    """Return the folder of teachers and caches: $KDBENCH_HOME, by default `kdbench` in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("KDBENCH_HOME") or cache / "kdbench")
