"""AlphaNet, Wang et al. 2021, arXiv:2102.07954, eq. 7: the larger of two alpha-divergences, row by row."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import alpha_beta_divergence


def alphanet_loss(student: Tensor, teacher: Tensor, alpha: float, beta: float) -> Tensor:
    """max(D_alpha, D_beta), averaged over rows, with D_a = (sum p^a q^(1 - a) - 1) / (a (a - 1)).

    student, teacher: logits [N, C], no temperature. Returns a scalar in nats.
    D_1 is KL(p || q), D_0 is KL(q || p). Outside [0, 1] log-probabilities are clamped at
    `kdbench.functional.divergences.LOG_PROBABILITY_FLOOR`.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    first, second = (alpha_beta_divergence(log_p, log_q, a, 1 - a) for a in (alpha, beta))
    return torch.maximum(first, second).mean()


class AlphaNet(Objective):
    """`alphanet_loss` as an objective. Raises ValueError unless alpha and beta are finite."""

    paper = Paper("AlphaNet: Improved Training of Supernets with Alpha-Divergence", 2021, "2102.07954")
    formula = "max(D_a, D_b), D_a = (sum p^a q^(1 - a) - 1) / (a (a - 1)) and its limits at 0 and 1"
    defaults_from = (
        "no publication: 0 and 1 are the KL corners; AlphaNet has -1 and 1, with weights clipped at 5"
    )
    disagreements = (
        "AlphaNet clips the importance weights (p/q)^a, without which alpha = -1 is hardly trainable; here nothing is "
        "clipped.",
        "ABKD's code takes the larger of the two means over a batch, AlphaNet's the larger for each row: here as in "
        "the latter, so that the value does not depend on the batch.",
        "In ABKD's code every unknown loss type lands here; both of its exponents are 0.5 by default.",
    )
    f_divergence = True

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not math.isfinite(value):
                raise ValueError(f"AlphaNet: {name} must be finite, got {value}")
        self.alpha, self.beta = alpha, beta

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`alphanet_loss` of the logits: a scalar in nats."""
        return alphanet_loss(student.logits, teacher.logits, self.alpha, self.beta)
