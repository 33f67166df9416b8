"""The peak speed of this machine."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

_SHAPE, _REPEATS = (8, 256, 32, 32), 3


@torch.inference_mode()
def conv_peak(precision: str) -> tuple[float, float]:
    """Return GFLOP per second of CPU time and of wall time: the best of a few 3x3 convolutions of 256 channels."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    images = torch.randn(_SHAPE, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    work = 2 * images.numel() * weight[0].numel() / 1e9
    cpu, wall = [], []
    for _ in range(_REPEATS):
        started = time.process_time(), time.perf_counter()
        F.conv2d(images, weight, padding=1)
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return work / min(cpu), work / min(wall)
