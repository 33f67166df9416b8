"""Provenance of a result: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kdbench.utils.paths import PACKAGE

PROVENANCE = ("versions", "commit", "machine", "threads", "started")


def provenance() -> dict[str, Any]:
    """Return versions, commit, machine, threads and time (UTC), which every record keeps; keys: `PROVENANCE`."""
    packages = ("torch", "lightning", "hydra-core", "timm", "kdbench")
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: installed_version(name) for name in packages},
        },
        "commit": _commit(),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def machine() -> dict[str, Any]:
    """Return operating system, processor (or GPU) and number of CPUs."""
    return {"system": platform.platform(), "processor": _processor(), "cpus": os.cpu_count()}


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """Return the commit of this checkout, with `+changes` if files differ from it; None outside a checkout.

    It is read once per process, because later commits do not change the code that is loaded.
    """
    command = [
        "git",
        "-C",
        str(PACKAGE.parent),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+changes",
        "--exclude=*",
    ]
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def _processor() -> str:
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
