"""ABTTM, Wang et al. 2025, arXiv:2505.04560: TTM by the alpha-beta divergence, D(p^gamma / sum p^gamma || q)."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence


def abttm_loss(
    student: Tensor,
    teacher: Tensor,
    gamma: float,
    alpha: float,
    beta: float,
    official_scale: bool = False,
) -> Tensor:
    """Alpha-beta divergence of the power-transformed teacher from the plain student, averaged over rows.

    student, teacher: logits [N, C]; gamma = 1/T. Returns a scalar in nats. No T^2; TTM at (1, 0).
    See `functional.divergences.alpha_beta_divergence`; official_scale restores ABKD's published scale on the axes.
    """
    log_q = F.log_softmax(student, dim=-1)
    log_p = F.log_softmax(gamma * teacher, dim=-1)
    return alpha_beta_divergence(log_p, log_q, alpha, beta, official_scale).mean()


class ABTTM(Objective):
    """`abttm_loss` as an objective.

    Raises ValueError unless 0 < gamma < inf and alpha, beta are finite.
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )
    formula = "D_ab(p^gamma / sum p^gamma || q), D_ab the alpha-beta divergence"
    defaults_from = (
        "none published; the yaml has gamma = 0.1 of the authors' search on wrn_40_2 -> wrn_40_1 and, of its line "
        "alpha + beta = 1.1 (alpha 0.5 to 1.6), their README's point for ABKD"
    )
    disagreements = (
        "The official code divides by zero where alpha, beta or their sum is 0, except at (1, 0); here those take "
        "the continuous limit, or with official_scale=true the scale of the ABKD code.",
    )

    def __init__(self, gamma: float, alpha: float, beta: float, official_scale: bool = False) -> None:
        super().__init__()
        if not 0 < gamma < math.inf:
            raise ValueError(f"ABTTM: gamma must be positive and finite, got {gamma}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not math.isfinite(value):
                raise ValueError(f"ABTTM: {name} must be finite, got {value}")
        self.gamma, self.alpha, self.beta, self.official_scale = gamma, alpha, beta, official_scale

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`abttm_loss` of the logits: a scalar in nats."""
        return abttm_loss(
            student.logits, teacher.logits, self.gamma, self.alpha, self.beta, self.official_scale
        )
