"""What this machine has, as far as kdbench asks."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch

_BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As the kernel names them: of x86 processors, and (the last) of Arm's."""


@cache
def has_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 itself; where it does not, torch emulates that, slower than float32.

    True where the system does not say.
    """
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return True
    return bool(_BF16_UNITS.intersection(words))


def emulates_bf16(accelerator: str) -> bool:
    """Whether a run on `accelerator` (`auto`, `cpu`, `gpu`) would emulate bfloat16."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return on_cpu and not has_bf16_units()


def free_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def resident_mib() -> float:
    """The memory that this process holds, in MiB; nan where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
