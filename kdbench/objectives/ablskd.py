"""ABLSKD (ABLSD), Wang et al. 2025, arXiv:2505.04560: T^2 D(p_T || q_T), alpha-beta, of z-scored logits."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence, standardise


def ablskd_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float,
    beta: float,
    temperature: float = 2.0,
    official_scale: bool = False,
) -> Tensor:
    """T^2 * alpha-beta divergence D(p_T || q_T) of z-scored logits, averaged over rows.

    student, teacher: logits [N, C], C >= 2. Returns a scalar in nats; LSKD at (1, 0).
    See `functional.divergences.alpha_beta_divergence`; official_scale restores ABKD's published scale on the axes.
    """
    log_q = F.log_softmax(standardise(student) / temperature, dim=-1)
    log_p = F.log_softmax(standardise(teacher) / temperature, dim=-1)
    return temperature**2 * alpha_beta_divergence(log_p, log_q, alpha, beta, official_scale).mean()


class ABLSKD(Objective):
    """`ablskd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and alpha, beta are finite.
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )
    formula = "T^2 D_ab(p_T || q_T) of z-scored logits, D_ab the alpha-beta divergence"
    defaults_from = "the authors' README command for resnet56 -> resnet20 (alpha 0.9, beta 0.3, T = 2)"
    disagreements = (
        "The official code divides by zero where alpha, beta or their sum is 0, except at (1, 0), and so does the "
        "README's own command for plain LSD (alpha 0, beta 1); here those take the continuous limit, or with "
        "official_scale=true the scale of the ABKD code.",
        "The authors call it ABLSD; the name here follows LSKD.",
    )

    def __init__(
        self, alpha: float, beta: float, temperature: float = 2.0, official_scale: bool = False
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"ABLSKD: temperature must be positive and finite, got {temperature}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not math.isfinite(value):
                raise ValueError(f"ABLSKD: {name} must be finite, got {value}")
        self.alpha, self.beta = alpha, beta
        self.temperature, self.official_scale = temperature, official_scale

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`ablskd_loss` of the logits: a scalar in nats."""
        return ablskd_loss(
            student.logits, teacher.logits, self.alpha, self.beta, self.temperature, self.official_scale
        )
