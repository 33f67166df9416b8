"""ABTTM (Wang et al. 2025, arXiv:2505.04560): TTM with the alpha-beta divergence."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence
from kdbench.utils.validation import check_finite, check_positive


def abttm_loss(
    student: Tensor,
    teacher: Tensor,
    gamma: float = 0.1,
    alpha: float = 0.8,
    beta: float = 0.3,
    official_scale: bool = False,
) -> Tensor:
    """Return the alpha-beta divergence of the transformed teacher from the student, averaged over rows.

    The teacher is softmax(gamma * logits); the student is not transformed.

    Not multiplied by T^2. At (alpha, beta) = (1, 0) this is TTM.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        gamma: Exponent of the teacher's probabilities, 1/T.
        alpha: First exponent of the divergence.
        beta: Second exponent of the divergence.
        official_scale: Use the scale of the published ABKD code on the axes; see
            `functional.divergences.alpha_beta_divergence`.

    Returns:
        A scalar in nats.
    """
    log_q = F.log_softmax(student, dim=-1)
    log_p = F.log_softmax(gamma * teacher, dim=-1)
    return alpha_beta_divergence(log_p, log_q, alpha, beta, official_scale).mean()


class ABTTM(Objective):
    """`abttm_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `gamma` is not positive and finite, or `alpha` or `beta` is not finite.
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )
    formula = "D_ab(p^gamma / sum p^gamma || q), D_ab the alpha-beta divergence"
    defaults_from = (
        "none published. The recipe takes gamma = 0.1 from the authors' search on wrn_40_2 -> wrn_40_1; on "
        "the line of that search, alpha + beta = 1.1 with alpha from 0.5 to 1.6, it takes the point of their"
        " README for ABKD"
    )
    disagreements = (
        "The official code divides by zero where alpha, beta or their sum is 0, except at (1, 0). kdbench "
        "takes the continuous limit there; official_scale=true takes the scale of the ABKD code instead.",
    )

    def __init__(
        self, gamma: float = 0.1, alpha: float = 0.8, beta: float = 0.3, official_scale: bool = False
    ) -> None:
        super().__init__()
        check_positive("ABTTM", gamma=gamma)
        check_finite("ABTTM", alpha=alpha, beta=beta)
        self.gamma, self.alpha, self.beta, self.official_scale = gamma, alpha, beta, official_scale

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `abttm_loss` of the logits: a scalar in nats."""
        return abttm_loss(
            student.logits, teacher.logits, self.gamma, self.alpha, self.beta, self.official_scale
        )
