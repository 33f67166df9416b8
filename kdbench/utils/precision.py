"""Numeric precision of float32 arithmetic."""

from __future__ import annotations

import torch


def exact_float32() -> None:
    """fp32 means float32: CUDA's shortcut through TF32 is another precision."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
