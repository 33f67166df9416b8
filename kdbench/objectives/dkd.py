"""DKD, Zhao et al. 2022, arXiv:2203.08679: alpha TCKD + beta NCKD."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import decouple


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
    log_q, log_q_others = decouple(student / temperature, target)
    log_p, log_p_others = decouple(teacher / temperature, target)
    tckd = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    nckd = F.kl_div(log_q_others, log_p_others, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * tckd + beta * nckd)


class DKD(Objective):
    """`dkd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and 0 <= alpha, beta < inf.
    """

    paper = Paper("Decoupled Knowledge Distillation", 2022, "2203.08679")
    formula = "T^2 (alpha TCKD + beta NCKD)"
    defaults_from = (
        "mdistiller's configuration (alpha 1, beta 8, T = 4); beta per pair comes from its CIFAR-100 files"
    )
    disagreements = (
        "The official code subtracts 1000 from the target's logit and takes the log of summed softmaxes, which can be "
        "-inf; here the others are gathered and all is in log space.",
        "The warm-up over 20 epochs is part of the official loss; here it is the recipe's ramp.",
    )
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
