"""Where the package, its configuration and its cache lie."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).parent.parent

_CHECKOUT = (PACKAGE.parent / "pyproject.toml").is_file() and (PACKAGE.parent / "conf").is_dir()

CONF_DIR = PACKAGE.parent / "conf" if _CHECKOUT else PACKAGE / "_conf"

EXPERIMENTS_DIR = PACKAGE.parent / "experiments" if _CHECKOUT else PACKAGE / "_experiments"


def home() -> Path:
    """Where kdbench keeps what it made: $KDBENCH_HOME, by default a folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("KDBENCH_HOME") or cache / "kdbench")
