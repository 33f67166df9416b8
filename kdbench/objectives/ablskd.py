"""ABLSKD (Wang et al. 2025, arXiv:2505.04560, called ABLSD there): LSKD with the alpha-beta divergence."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence, standardise
from kdbench.utils.validation import check_finite, check_positive


def ablskd_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float = 0.9,
    beta: float = 0.3,
    temperature: float = 2.0,
    official_scale: bool = False,
) -> Tensor:
    """Return T^2 times the alpha-beta divergence D(p_T || q_T) of z-scored logits, averaged over rows.

    At (alpha, beta) = (1, 0) this is LSKD.

    Args:
        student: Student logits [N, C], C >= 2.
        teacher: Teacher logits [N, C].
        alpha: First exponent of the divergence.
        beta: Second exponent of the divergence.
        temperature: T, which divides the z-scored logits of both sides.
        official_scale: Use the scale of the published ABKD code on the axes; see
            `functional.divergences.alpha_beta_divergence`.

    Returns:
        A scalar in nats.
    """
    log_q = F.log_softmax(standardise(student) / temperature, dim=-1)
    log_p = F.log_softmax(standardise(teacher) / temperature, dim=-1)
    return temperature**2 * alpha_beta_divergence(log_p, log_q, alpha, beta, official_scale).mean()


class ABLSKD(Objective):
    """`ablskd_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `temperature` is not positive and finite, or `alpha` or `beta` is not finite.
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )
    formula = "T^2 D_ab(p_T || q_T) of z-scored logits, D_ab the alpha-beta divergence"
    defaults_from = "the README command of the authors for resnet56 -> resnet20 (alpha 0.9, beta 0.3, T = 2)"
    disagreements = (
        "The official code divides by zero where alpha, beta or their sum is 0, except at (1, 0); the "
        "README's own command for plain LSD (alpha 0, beta 1) does so too. kdbench takes the continuous "
        "limit there; official_scale=true takes the scale of the ABKD code instead.",
        "The authors call this loss ABLSD; the name ABLSKD follows LSKD.",
    )

    def __init__(
        self, alpha: float = 0.9, beta: float = 0.3, temperature: float = 2.0, official_scale: bool = False
    ) -> None:
        super().__init__()
        check_positive("ABLSKD", temperature=temperature)
        check_finite("ABLSKD", alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta
        self.temperature, self.official_scale = temperature, official_scale

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `ablskd_loss` of the logits: a scalar in nats."""
        return ablskd_loss(
            student.logits, teacher.logits, self.alpha, self.beta, self.temperature, self.official_scale
        )
