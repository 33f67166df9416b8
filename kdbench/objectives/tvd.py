"""Total variation distance per token (f-DISTILL, Wen et al. 2023, arXiv:2307.15190)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs


def tvd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1/2 sum |p - q|, averaged over rows; no temperature.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].

    Returns:
        A scalar in [0, 1].
    """
    return 0.5 * (F.softmax(teacher, dim=-1) - F.softmax(student, dim=-1)).abs().sum(dim=-1).mean()


class TVD(Objective):
    """`tvd_loss` as an objective."""

    paper = Paper("f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023, "2307.15190")
    formula = "1/2 sum |p - q|"
    f_divergence = True

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `tvd_loss` of the logits: a scalar in [0, 1]."""
        return tvd_loss(student.logits, teacher.logits)
