"""Liger-kernel's fused kernels (Hsu et al. 2024, arXiv:2410.10989), where they compute what an objective here does.

Value and gradient of a divergence come from one pass over the logarithms of both sides' probabilities, where torch
makes a tensor of all rows and classes for each operation. They are Triton's and want CUDA; in its interpreter
(TRITON_INTERPRET=1, slow) they also run on a CPU, which is how they are tested.
"""

from __future__ import annotations

import os

import torch.nn.functional as F
from torch import Tensor

KERNELS = ("torch", "liger")


def check_kernel(kernel: str) -> None:
    """ValueError for a kernel that is not known, or not installed."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel}; possible: {', '.join(KERNELS)}")
    if kernel == "liger":
        _function()


def generalised_js(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Return beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, averaged over rows.

    It is KL(p || q) at beta = 0 and KL(q || p) at beta = 1.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        beta: Weight of the teacher in the mixture.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: The logits are on a CPU.
    """
    if not student.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "kernel=liger: these logits are on a CPU, and its kernels are for CUDA; give kernel=torch"
        )
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    value: Tensor = _function()(beta)(log_q, log_p)
    return value


def _function() -> type:
    try:
        from liger_kernel.transformers.jsd import LigerJSD
    except ImportError as error:
        raise ValueError(f"kernel=liger: pip install -e '.[liger]' ({error})") from error
    found: type = LigerJSD
    return found
