"""AKL (Wu et al. 2024, arXiv:2404.02657, eqs. 9 to 11): forward and reverse KL, weighted row by row."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.utils.validation import check_fraction

_ROUNDING = 1e-6
"""Tolerance of the comparison with `head`, so that float32 and float64 select the same classes."""


def akl_loss(student: Tensor, teacher: Tensor, head: float = 0.5) -> Tensor:
    """Return h KL(p || q) + (1 - h) KL(q || p), averaged over rows; no temperature.

    The weight h of a row is the share of |p - q| on the head of the teacher's distribution. It carries no
    gradient, and is 1/2 where p = q.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        head: Largest cumulative probability of the head, which holds the most likely classes of the teacher.
            The most likely class always belongs to it.

    Returns:
        A scalar in nats.
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
    """`akl_loss` as an objective, with the same parameter.

    Raises:
        ValueError: If `head` is not in [0, 1].
    """

    paper = Paper(
        "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models",
        2024,
        "2404.02657",
    )
    formula = "h KL(p || q) + (1 - h) KL(q || p), h = the share of |p - q| on the teacher's head of mass 1/2"
    defaults_from = "the authors' code (head 0.5)"
    disagreements = (
        "Where p = q at a token, the official weights are 0/0 and the loss is NaN. Here both weights are 1/2"
        " at such a token, so it adds 0.",
    )

    def __init__(self, head: float = 0.5) -> None:
        super().__init__()
        check_fraction("AKL", head=head)
        self.head = head

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `akl_loss` of the logits: a scalar in nats."""
        return akl_loss(student.logits, teacher.logits, self.head)
