"""WSLD, Zhou et al. 2021, arXiv:2102.00650: T^2 w CE(p_T, q_T), w = 1 - exp(-CE_student / CE_teacher)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs

EPS = 1e-7
"""Added to the teacher's cross-entropy on the label: the official code's."""


def wsld_loss(student: Tensor, teacher: Tensor, target: Tensor, temperature: float = 2.0) -> Tensor:
    """T^2 * w * CE(p_T, q_T), averaged over rows: a soft cross-entropy, not a divergence.

    student, teacher: logits [N, C], C >= 2; target: class indices [N]. Returns a scalar in nats.
    w = 1 - exp(-CE_s / (CE_t + 1e-7)) from both sides' cross-entropy on the label at temperature 1, without
    gradient: a row counts less the better the student already is on it compared with the teacher.
    The paper's alpha is the recipe's weight.
    """
    with torch.no_grad():
        weight = -torch.expm1(-_label_ce(student, target) / (_label_ce(teacher, target) + EPS))
    p, log_q = F.softmax(teacher / temperature, dim=-1), F.log_softmax(student / temperature, dim=-1)
    return -(temperature**2) * (weight * (p * log_q).sum(dim=-1)).mean()


def _label_ce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each row on its label: [N, C] -> [N], in nats.

    As the log-odds of the other classes: next to EPS, float32 must tell 1e-7 from 2e-7, and a log-softmax near
    0 does not.
    """
    index = target[:, None]
    others = (logits - logits.gather(-1, index)).scatter(-1, index, -math.inf)
    return F.softplus(others.logsumexp(dim=-1))


class WSLD(Objective):
    """`wsld_loss` as an objective. Raises ValueError unless 0 < temperature < inf."""

    paper = Paper(
        "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
        2021,
        "2102.00650",
    )
    formula = "T^2 w CE(p_T, q_T), w = 1 - exp(-CE_s(y) / (CE_t(y) + 1e-7)) without gradient"
    defaults_from = (
        "official code (ImageNet); CIFAR-100, weight 2.25 and T = 4: its issue 2 and the cls_KD configs"
    )
    disagreements = (
        "The official code fixes 1000 classes and leaves the teacher in the graph; here neither is so.",
        "Users report that they do not reach the paper's CIFAR-100 numbers (issues 2 and 6 of the official code).",
    )
    needs = ("logits", "labels")

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"WSLD: temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`wsld_loss` of the logits and the batch's target: a scalar in nats."""
        return wsld_loss(student.logits, teacher.logits, batch.target, self.temperature)
