"""WTTM, Zheng and Yang 2024, arXiv:2402.11148: U KL(p^gamma / U || q), U = sum p^gamma."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core import Batch, Objective, Outputs, Paper


def wttm_loss(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    """U * KL(p^gamma / U || q), where U = sum(p^gamma) over classes, averaged over rows.

    student, teacher: logits [N, C]; gamma = 1/T. Returns a scalar in nats.
    U weighs each row by how soft its teacher is: 1 for one-hot, C^(1 - gamma) for uniform; not normalised
    over the batch. No T^2.
    """
    log_q = F.log_softmax(student, dim=-1)
    log_power = gamma * F.log_softmax(teacher, dim=-1)
    log_u = log_power.logsumexp(dim=-1, keepdim=True)
    kl = F.kl_div(log_q, log_power - log_u, reduction="none", log_target=True).sum(dim=-1)
    return (log_u.squeeze(-1).exp() * kl).mean()


class WTTM(Objective):
    """`wttm_loss` as an objective. Raises ValueError unless 0 < gamma < inf."""

    paper = Paper("Knowledge Distillation Based on Transformed Teacher Matching", 2024, "2402.11148")

    def __init__(self, gamma: float) -> None:
        super().__init__()
        if not 0 < gamma < math.inf:
            raise ValueError(f"WTTM: gamma must be positive and finite, got {gamma}")
        self.gamma = gamma

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`wttm_loss` of the logits: a scalar in nats."""
        return wttm_loss(student.logits, teacher.logits, self.gamma)
