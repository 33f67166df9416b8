"""Reverse KL per token (MiniLLM, Gu et al. 2024, arXiv:2306.08543, eq. 1)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.functional.fused_kernels import check_kernel, generalised_js


def rkl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(q || p) of the student from the teacher, averaged over rows; mode-seeking, no temperature.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return kl(log_q, log_p).mean()


class RKL(Objective):
    """`rkl_loss` as an objective.

    Args:
        kernel: `torch`, or `liger` on CUDA (`kdbench.functional.fused_kernels`).

    Raises:
        ValueError: If the kernel is unknown or not installed.
    """

    paper = Paper("MiniLLM: Knowledge Distillation of Large Language Models", 2024, "2306.08543")
    formula = "KL(q || p)"
    defaults_from = "kdbench: the kernel changes the implementation, not the value"
    disagreements = (
        "MiniLLM applies the divergence to whole sequences that the student generates, by policy gradient. "
        "This is the term per token of a given text, as in the code of DistiLLM and ABKD.",
    )
    f_divergence = True
    neutral_options: ClassVar[Mapping[str, Any]] = {"kernel": "torch"}

    def __init__(self, kernel: str = "torch") -> None:
        super().__init__()
        check_kernel(kernel)
        self.kernel = kernel

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `rkl_loss` of the logits: a scalar in nats."""
        if self.kernel == "liger":
            return generalised_js(student.logits, teacher.logits, 1.0)
        return rkl_loss(student.logits, teacher.logits)
