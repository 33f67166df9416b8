"""DKD (Zhao et al. 2022, arXiv:2203.08679): separate weights for the target and the non-target classes."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import decouple
from kdbench.utils.validation import check_non_negative, check_positive


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Return T^2 * (alpha * TCKD + beta * NCKD), averaged over rows.

    TCKD is the KL divergence of (target, all other classes). NCKD is the KL divergence among the C - 1 other
    classes, and 0 for C = 2. The paper's warm-up is a ramp of the recipe.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        target: Class indices, int64 [N].
        alpha: Weight of TCKD.
        beta: Weight of NCKD.
        temperature: T, which divides the logits of both sides.

    Returns:
        A scalar in nats.
    """
    log_q, log_q_others = decouple(student / temperature, target)
    log_p, log_p_others = decouple(teacher / temperature, target)
    tckd = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    nckd = F.kl_div(log_q_others, log_p_others, reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * tckd + beta * nckd)


class DKD(Objective):
    """`dkd_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `temperature` is not positive and finite, or `alpha` or `beta` is negative or not
            finite.
    """

    paper = Paper("Decoupled Knowledge Distillation", 2022, "2203.08679")
    formula = "T^2 (alpha TCKD + beta NCKD)"
    defaults_from = (
        "mdistiller's configuration (alpha 1, beta 8, T = 4); beta per pair comes from its CIFAR-100 files"
    )
    disagreements = (
        "The official code subtracts 1000 from the target's logit and takes the log of summed softmaxes, "
        "which can be -inf. Here the other classes are gathered and everything is computed in log space.",
        "The warm-up over 20 epochs is part of the official loss; here it is a ramp of the recipe.",
    )
    needs = ("logits", "labels")

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        check_positive("DKD", temperature=temperature)
        check_non_negative("DKD", alpha=alpha, beta=beta)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `dkd_loss` of the logits and the batch's target: a scalar in nats."""
        return dkd_loss(student.logits, teacher.logits, batch.target, self.alpha, self.beta, self.temperature)
