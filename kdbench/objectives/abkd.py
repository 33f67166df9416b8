"""ABKD, Wang et al. 2025, arXiv:2505.04560: -1/(ab) sum [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)]."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence


def abkd_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float,
    beta: float,
    temperature: float = 4.0,
    official_scale: bool = False,
) -> Tensor:
    """Alpha-beta divergence D(p_T || q_T) of teacher from student, averaged over rows. No T^2.

    student, teacher: logits [N, C]. Returns a scalar in nats.
    See `functional.divergences.alpha_beta_divergence`; official_scale restores the published code's scale on the axes.
    """
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return alpha_beta_divergence(log_p, log_q, alpha, beta, official_scale).mean()


class ABKD(Objective):
    """`abkd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and alpha, beta are finite.
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )
    formula = (
        "-1/(ab) sum [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)] at temperature T, and its limits; no T^2"
    )
    defaults_from = (
        "the authors' README command for resnet56 -> resnet20 (alpha 0.8, beta 0.3, T = 4); their code's own "
        "defaults are alpha = beta = 0.5"
    )
    disagreements = (
        "Where alpha, beta or alpha + beta is 0 the official code has 1/alpha (or 1/beta) and the limit of the formula "
        "its square; here it is the limit, and official_scale=true gives the published scale.",
        "The README's weight for resnet56 -> resnet20 is 32, a comment in the script says 64; the recipe has 32.",
        "The GPT-2 script says alpha 0.2, beta 0.7 in its header, but its loop is fixed at (0, 1).",
    )

    def __init__(
        self, alpha: float, beta: float, temperature: float = 4.0, official_scale: bool = False
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"ABKD: temperature must be positive and finite, got {temperature}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not math.isfinite(value):
                raise ValueError(f"ABKD: {name} must be finite, got {value}")
        self.alpha, self.beta = alpha, beta
        self.temperature, self.official_scale = temperature, official_scale

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`abkd_loss` of the logits: a scalar in nats."""
        return abkd_loss(
            student.logits, teacher.logits, self.alpha, self.beta, self.temperature, self.official_scale
        )
