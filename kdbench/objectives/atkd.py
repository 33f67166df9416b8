"""ATKD, Zhong et al. 2024, arXiv:2402.11890: alpha NCKD on easy rows, (1 - alpha) (TCKD + NCKD) on hard ones."""

import torch
from torch import Tensor

from kdbench.core import Batch, Objective, Outputs, Paper
from kdbench.divergences import decouple, kl


def atkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 0.2, reverse: bool = False
) -> Tensor:
    """alpha * NCKD of the easy rows + (1 - alpha) * (TCKD + NCKD) of the hard ones, over all N rows.

    student, teacher: logits [N, C], C >= 2, of the valid tokens; target: their gold tokens [N].
    Returns a scalar in nats. No temperature.
    TCKD is the KL of (target, everything else), NCKD the KL among the C - 1 others, not multiplied by the
    teacher's mass on them. A row is easy if that mass, 1 - p_y, is below its median over the batch.
    reverse: KL(student || teacher) in both, and the student's mass splits the rows.
    """
    leading, following = (student, teacher) if reverse else (teacher, student)
    log_a, log_a_others = decouple(_from_top(leading), target)
    log_b, log_b_others = decouple(_from_top(following), target)
    # The log-odds of that mass order rows as the mass does, and still do where it rounds to 0 or 1.
    odds = (log_a[:, 1] - log_a[:, 0]).detach()
    easy = odds < odds.quantile(0.5)
    tckd, nckd = kl(log_a, log_b), kl(log_a_others, log_b_others)
    return torch.where(easy, alpha * nckd, (1 - alpha) * (tckd + nckd)).mean()


def _from_top(logits: Tensor) -> Tensor:
    # Changes nothing but the rounding: far from 0 a log-sum-exp in float32 is coarser than the odds.
    return logits - logits.detach().amax(dim=-1, keepdim=True)


class ATKD(Objective):
    """`atkd_loss` as an objective. Rows are valid tokens. Raises ValueError unless 0 <= alpha <= 1."""

    paper = Paper("Revisiting Knowledge Distillation for Autoregressive Language Models", 2024, "2402.11890")
    formula = "mean over rows of alpha NCKD where 1 - p_y is below its median, of (1 - alpha) (TCKD + NCKD) elsewhere"
    defaults_from = "alpha = 0.2 is our choice, not checked against the paper or its code"
    disagreements = (
        "Both sums are divided by the number of all valid tokens, as in the official code: "
        "each half counts about half of what a mean over its own tokens would.",
        "The median of an even number of rows lies between the middle two, so that half of the rows are easy.",
    )
    needs = ("logits", "labels")
    couples_rows = True

    def __init__(self, alpha: float = 0.2, reverse: bool = False) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"ATKD: alpha must be between 0 and 1, got {alpha}")
        self.alpha, self.reverse = alpha, reverse

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`atkd_loss` of the logits and the batch's target: a scalar in nats."""
        return atkd_loss(student.logits, teacher.logits, batch.target, self.alpha, self.reverse)
