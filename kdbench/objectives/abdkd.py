"""ABDKD, Wang et al. 2025, arXiv:2505.04560: DKD whose NCKD is the alpha-beta divergence."""

import math

from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence, decouple, kl


def abdkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    target_weight: float = 1.0,
    other_weight: float = 6.0,
    temperature: float = 4.0,
    official_scale: bool = False,
) -> Tensor:
    """T^2 * (target_weight * TCKD + other_weight * D), averaged over rows.

    student, teacher: logits [N, C]; target: class indices [N]. Returns a scalar in nats.
    TCKD is the KL of (target, everything else); D the alpha-beta divergence among the C - 1 other classes, 0 for
    C = 2. DKD, which calls these weights alpha and beta, at (alpha, beta) = (1, 0).
    See `functional.divergences.alpha_beta_divergence`; official_scale restores ABKD's published scale on the axes.
    """
    log_q, log_q_others = decouple(student / temperature, target)
    log_p, log_p_others = decouple(teacher / temperature, target)
    among_others = alpha_beta_divergence(log_p_others, log_q_others, alpha, beta, official_scale)
    rows = target_weight * kl(log_p, log_q) + other_weight * among_others
    return temperature**2 * rows.mean()


class ABDKD(Objective):
    """`abdkd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf, alpha, beta are finite and 0 <= target_weight, other_weight < inf.
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )
    formula = (
        "T^2 (target_weight TCKD + other_weight D_ab(p_others || q_others)), D_ab the alpha-beta divergence"
    )
    defaults_from = (
        "the authors' search on vgg13 -> vgg8: weight 6 of the others and alpha + beta = 1 with alpha 0.5 to 1.2, "
        "of which the yaml has the point of their code's defaults, 0.5 and 0.5; T = 4 as DKD"
    )
    disagreements = (
        "The official code divides by zero where alpha, beta or their sum is 0, except at (1, 0); here those take "
        "the continuous limit, or with official_scale=true the scale of the ABKD code.",
        "DKD's weights alpha and beta are target_weight and other_weight here; alpha and beta are the divergence's.",
    )
    needs = ("logits", "labels")

    def __init__(
        self,
        alpha: float,
        beta: float,
        target_weight: float = 1.0,
        other_weight: float = 6.0,
        temperature: float = 4.0,
        official_scale: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"ABDKD: temperature must be positive and finite, got {temperature}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not math.isfinite(value):
                raise ValueError(f"ABDKD: {name} must be finite, got {value}")
        for name, value in (("target_weight", target_weight), ("other_weight", other_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"ABDKD: {name} must be finite and not negative, got {value}")
        self.alpha, self.beta, self.official_scale = alpha, beta, official_scale
        self.target_weight, self.other_weight, self.temperature = target_weight, other_weight, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`abdkd_loss` of the logits and the batch's target: a scalar in nats."""
        return abdkd_loss(
            student.logits,
            teacher.logits,
            batch.target,
            self.alpha,
            self.beta,
            self.target_weight,
            self.other_weight,
            self.temperature,
            self.official_scale,
        )
