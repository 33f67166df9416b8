"""DKD, Zhao et al. 2022, arXiv:2203.08679: alpha TCKD + beta NCKD."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core import Batch, Objective, Outputs, Paper


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T^2 * (alpha * TCKD + beta * NCKD), averaged over rows.

    student, teacher: logits [N, C]; target: class indices [N]. Returns a scalar in nats.
    TCKD is the KL of (target, everything else); NCKD the KL among the C - 1 other classes, 0 for C = 2.
    The paper's warm-up is the recipe's ramp.
    """
    log_q, log_q_others = _decouple(student / temperature, target)
    log_p, log_p_others = _decouple(teacher / temperature, target)
    tckd = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    nckd = F.kl_div(log_q_others, log_p_others, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * tckd + beta * nckd)


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, all others) [N, 2] and among the others [N, C - 1]."""
    slots = torch.arange(logits.shape[-1] - 1, device=logits.device)
    # The official code subtracts 1000 from the target's logit; gathering the others is exact at any logit.
    others = logits.gather(-1, slots + (slots >= target[:, None]).long())
    binary = torch.cat((logits.gather(-1, target[:, None]), others.logsumexp(dim=-1, keepdim=True)), dim=-1)
    return F.log_softmax(binary, dim=-1), F.log_softmax(others, dim=-1)


class DKD(Objective):
    """`dkd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and 0 <= alpha, beta < inf.
    """

    paper = Paper("Decoupled Knowledge Distillation", 2022, "2203.08679")
    needs = ("logits", "labels")

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"DKD: temperature must be positive and finite, got {temperature}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value < math.inf:
                raise ValueError(f"DKD: {name} must be finite and not negative, got {value}")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`dkd_loss` of the logits and the batch's target: a scalar in nats."""
        return dkd_loss(student.logits, teacher.logits, batch.target, self.alpha, self.beta, self.temperature)
