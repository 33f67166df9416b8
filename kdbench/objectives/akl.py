"""AKL, Wu et al. 2024, arXiv:2404.02657, eq. 9 to 11: forward and reverse KL, weighted row by row."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl

_ROUNDING = 1e-6
"""A cumulative mass this close to `head` has not passed it: float32 and float64 must cut alike."""


def akl_loss(student: Tensor, teacher: Tensor, head: float = 0.5) -> Tensor:
    """h KL(p || q) + (1 - h) KL(q || p), averaged over rows.

    student, teacher: logits [N, C], no temperature. Returns a scalar in nats.
    h is a row's share of |p - q| on the teacher's head: its likeliest classes, as long as their mass is at most
    `head`, and the first of them in any case. It carries no gradient; where p = q it is 1/2.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    share = _head_share(log_p.exp(), log_q.detach().exp(), head)
    return (share * kl(log_p, log_q) + (1 - share) * kl(log_q, log_p)).mean()


def _head_share(p: Tensor, q: Tensor, head: float) -> Tensor:
    sorted_p, order = p.sort(dim=-1, descending=True, stable=True)
    in_head = sorted_p.cumsum(dim=-1) <= head + _ROUNDING
    in_head[..., 0] = True
    gaps = (p - q).abs().gather(-1, order)
    total = gaps.sum(dim=-1)
    same = total == 0
    return torch.where(same, 0.5, (gaps * in_head).sum(dim=-1) / torch.where(same, 1.0, total))


class AKL(Objective):
    """`akl_loss` as an objective. Raises ValueError unless 0 <= head <= 1."""

    paper = Paper(
        "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models",
        2024,
        "2404.02657",
    )
    formula = "h KL(p || q) + (1 - h) KL(q || p), h = the share of |p - q| on the teacher's head of mass 1/2"
    defaults_from = "the authors' code (head 0.5)"
    disagreements = (
        "Where p = q at a token the official weights are 0/0 and the loss is not a number; here such a token has the "
        "weights 1/2, and adds 0.",
    )

    def __init__(self, head: float = 0.5) -> None:
        super().__init__()
        if not 0 <= head <= 1:
            raise ValueError(f"AKL: head must lie between 0 and 1, got {head}")
        self.head = head

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`akl_loss` of the logits: a scalar in nats."""
        return akl_loss(student.logits, teacher.logits, self.head)
