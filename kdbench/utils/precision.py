"""Precision of float32 arithmetic."""

from __future__ import annotations

import torch


def disable_tf32() -> None:
    """Make CUDA compute float32 exactly: `precision=fp32` must not mean TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
