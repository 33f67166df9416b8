"""Properties of this machine: CPU cores, memory, bf16 support, CUDA devices."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags in /proc/cpuinfo: the first two are x86's, the last is Arm's."""

RUN_MEMORY_GIB = 1.5
"""Memory that the process of one run needs before it loads any data."""


@cache
def has_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware; true if the system does not tell.

    Without such units torch emulates bfloat16, which is slower than float32.
    """
    try:
        flags = cpuinfo.read_text().split()
    except OSError:
        return True
    return bool(_BF16_FLAGS.intersection(flags))


def emulates_bf16(accelerator: str) -> bool:
    """Return whether a run on an accelerator (`auto`, `cpu`, `gpu`) would emulate bfloat16."""
    import torch

    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return on_cpu and not has_bf16_units()


def free_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPU cores for this process: its affinity mask, limited by its container's quota."""
    return max(1, int(min(len(os.sched_getaffinity(0)), _cpu_quota(cgroup))))


def _cpu_quota(cgroup: Path) -> float:
    """Return a container's CPU seconds per second by its control group (v2, else v1); inf without a limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def resident_mib() -> float:
    """Return the resident memory of this process in MiB; NaN if the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_memory_gib() -> float:
    """Return the memory available to a new process in GiB; inf if the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable")), math.inf)


def max_parallel_runs(threads: int, devices: int = 1) -> int:
    """Return how many runs this machine can execute at the same time, at least 1.

    Args:
        threads: CPU threads of one run; the limit on machines without CUDA devices, together with memory.
        devices: CUDA devices of one run; the only limit where there are enough of them.
    """
    cpu_runs = min(free_cores() // threads, free_memory_gib() / RUN_MEMORY_GIB)
    return len(cuda_devices()) // devices or max(1, int(cpu_runs))


def cuda_devices() -> list[str]:
    """Return the CUDA devices visible to this process, named as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
