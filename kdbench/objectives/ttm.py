"""TTM, Zheng and Yang 2024, arXiv:2402.11148: KL(p^gamma / sum p^gamma || q)."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core import Batch, Objective, Outputs, Paper


def ttm_loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """KL(p^gamma / sum(p^gamma) || q): only the teacher is transformed, averaged over rows.

    student, teacher: logits [N, C]; gamma = 1/T. Returns a scalar in nats.
    The power transform of a softmax is softmax(gamma * logits). No T^2.
    """
    log_q = F.log_softmax(student, dim=-1)
    log_p = F.log_softmax(gamma * teacher, dim=-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class TTM(Objective):
    """`ttm_loss` as an objective. Raises ValueError unless 0 < gamma < inf."""

    paper = Paper("Knowledge Distillation Based on Transformed Teacher Matching", 2024, "2402.11148")

    def __init__(self, gamma: float) -> None:
        super().__init__()
        if not 0 < gamma < math.inf:
            raise ValueError(f"TTM: gamma must be positive and finite, got {gamma}")
        self.gamma = gamma

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`ttm_loss` of the logits: a scalar in nats."""
        return ttm_loss(student.logits, teacher.logits, self.gamma)
