"""What this machine has, as far as kdbench asks."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

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
    import torch

    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return on_cpu and not has_bf16_units()


def free_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The CPU cores that this process may use: those it is bound to, and no more than its container has time on."""
    return max(1, int(min(len(os.sched_getaffinity(0)), _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """CPU seconds a second that a container's control group (v2, else v1) may have; inf where none is set."""
    try:
        allowed, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        except OSError:
            return math.inf
    return math.inf if allowed in ("max", "-1") else int(allowed) / int(period)


def resident_mib() -> float:
    """The memory that this process holds, in MiB; nan where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_memory_gib() -> float:
    """The memory that a further process could have, in GiB; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), math.inf)


GIB_OF_A_RUN = 1.5
"""What the process of a run takes at least, before its data."""


def side_by_side(threads: int, devices: int = 1) -> int:
    """How many runs this machine takes at once: one for so many CUDA devices, else one for so many cores, as far as the
    memory goes."""
    cores = min(free_cores() // threads, free_memory_gib() / GIB_OF_A_RUN)
    return len(cuda_devices()) // devices or max(1, int(cores))


def cuda_devices() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
