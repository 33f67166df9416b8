"""AlphaNet (Wang et al. 2021, arXiv:2102.07954, eq. 7): the larger of two alpha-divergences, row by row."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence
from kdbench.utils.validation import check_finite


def alphanet_loss(student: Tensor, teacher: Tensor, alpha: float = 0.0, beta: float = 1.0) -> Tensor:
    """Return max(D_alpha, D_beta) averaged over rows, where D_a = (sum p^a q^(1 - a) - 1) / (a (a - 1)).

    D_1 is KL(p || q) and D_0 is KL(q || p). For exponents outside [0, 1] the log-probabilities are clamped at
    `kdbench.functional.divergences.LOG_PROBABILITY_FLOOR`. No temperature.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        alpha: Exponent of the first divergence.
        beta: Exponent of the second divergence.

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    first, second = (alpha_beta_divergence(log_p, log_q, a, 1 - a) for a in (alpha, beta))
    return torch.maximum(first, second).mean()


class AlphaNet(Objective):
    """`alphanet_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `alpha` or `beta` is not finite.
    """

    paper = Paper("AlphaNet: Improved Training of Supernets with Alpha-Divergence", 2021, "2102.07954")
    formula = "max(D_a, D_b), D_a = (sum p^a q^(1 - a) - 1) / (a (a - 1)) with its limits at 0 and 1"
    defaults_from = (
        "no publication: 0 and 1 are the two KL divergences; AlphaNet uses -1 and 1 with weights clipped at 5"
    )
    disagreements = (
        "AlphaNet clips the importance weights (p/q)^a, without which alpha = -1 can hardly be trained; "
        "kdbench does not clip.",
        "ABKD's code takes the larger of the two means over a batch, AlphaNet's code the larger value of "
        "each row. kdbench follows AlphaNet, so the value does not depend on the batch.",
        "In ABKD's code every unknown loss type falls through to this loss, and both of its exponents are "
        "0.5 by default.",
    )
    f_divergence = True

    def __init__(self, alpha: float = 0.0, beta: float = 1.0) -> None:
        super().__init__()
        check_finite("AlphaNet", alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `alphanet_loss` of the logits: a scalar in nats."""
        return alphanet_loss(student.logits, teacher.logits, self.alpha, self.beta)
