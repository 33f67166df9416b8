"""Forward KL per token: word-level distillation (Kim and Rush 2016, arXiv:1606.07947, eq. 5)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.functional.fused_kernels import check_kernel, generalised_js


def fkl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(p || q) of the teacher from the student, averaged over rows; mass-covering, no temperature.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return kl(log_p, log_q).mean()


class FKL(Objective):
    """`fkl_loss` as an objective.

    Args:
        kernel: `torch`, or `liger` on CUDA (`kdbench.functional.fused_kernels`).

    Raises:
        ValueError: If the kernel is unknown or not installed.
    """

    paper = Paper("Sequence-Level Knowledge Distillation", 2016, "1606.07947")
    formula = "KL(p || q)"
    defaults_from = "kdbench: the kernel changes the implementation, not the value"
    disagreements = (
        "The paper's word-level term and the code of DistiLLM and ABKD compute the cross-entropy -sum p log "
        "q, which has the same gradient and is larger by the teacher's entropy.",
    )
    f_divergence = True
    neutral_options: ClassVar[Mapping[str, Any]] = {"kernel": "torch"}

    def __init__(self, kernel: str = "torch") -> None:
        super().__init__()
        check_kernel(kernel)
        self.kernel = kernel

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `fkl_loss` of the logits: a scalar in nats."""
        if self.kernel == "liger":
            return generalised_js(student.logits, teacher.logits, 0.0)
        return fkl_loss(student.logits, teacher.logits)
