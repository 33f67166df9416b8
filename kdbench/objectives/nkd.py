"""NKD, Yang et al. 2023, arXiv:2303.13005: -p_y log q_y - gamma T^2 sum over k != y of p^_T,k log q^_T,k."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import decouple


def nkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, gamma: float = 1.5, temperature: float = 1.0
) -> Tensor:
    """Target term plus gamma * T^2 * the cross-entropy among the other classes, averaged over rows.

    student, teacher: logits [N, C], C >= 2; target: class indices [N]. Returns a scalar in nats.
    The target term is -p_y log q_y at temperature 1. The C - 1 other classes are renormalised on each side and
    softened by T; 0 for C = 2. A cross-entropy, not a divergence: it is not 0 where the student is the teacher.
    """
    index = target[:, None]
    p_target = F.softmax(teacher, dim=-1).gather(-1, index)
    log_q_target = F.log_softmax(student, dim=-1).gather(-1, index)
    _, log_p_others = decouple(teacher / temperature, target)
    _, log_q_others = decouple(student / temperature, target)
    others = -(log_p_others.exp() * log_q_others).sum(dim=-1).mean()
    return gamma * temperature**2 * others - (p_target * log_q_target).mean()


class NKD(Objective):
    """`nkd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and 0 <= gamma < inf.
    """

    paper = Paper(
        "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss "
        "and Customized Soft Labels",
        2023,
        "2303.13005",
    )
    formula = "-p_y log q_y + gamma T^2 CE(p_T, q_T among the classes other than y)"
    defaults_from = (
        "official code (cls_KD), convolutional networks on ImageNet; its CIFAR-100: gamma 3.5, T 3"
    )
    disagreements = (
        "The official code takes soft labels (mixup) too and reads off their largest class; here a label is an index.",
    )
    needs = ("logits", "labels")

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"NKD: temperature must be positive and finite, got {temperature}")
        if not 0 <= gamma < math.inf:
            raise ValueError(f"NKD: gamma must be finite and not negative, got {gamma}")
        self.gamma, self.temperature = gamma, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`nkd_loss` of the logits and the batch's target: a scalar in nats."""
        return nkd_loss(student.logits, teacher.logits, batch.target, self.gamma, self.temperature)
