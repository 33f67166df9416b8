"""ATKD (Zhong et al. 2024, arXiv:2402.11890): separate terms for rows easy and hard for the teacher."""

from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import decouple, kl
from kdbench.utils.validation import check_fraction


def atkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 0.2, reverse: bool = False
) -> Tensor:
    """Return alpha * mean NCKD of the easy rows + (1 - alpha) * mean (TCKD + NCKD) of the hard rows.

    TCKD is the KL divergence of (target, all other classes). NCKD is the KL divergence among the C - 1 other
    classes, not multiplied by the teacher's mass on them. There is no temperature. A row is easy if that mass,
    1 - p_y, is below its median over the batch (the lower of the two middle values if N is even). Each half is
    averaged over its own rows; an empty easy half counts 0.

    Args:
        student: Student logits [N, C] of the valid tokens, C >= 2.
        teacher: Teacher logits [N, C].
        target: Gold tokens, int64 [N].
        alpha: Weight of the easy rows; 0.2 in the official code.
        reverse: Use KL(student || teacher) in both terms. The teacher's mass still divides the rows.

    Returns:
        A scalar in nats.
    """
    log_p, log_p_others = decouple(_from_top(teacher), target)
    log_q, log_q_others = decouple(_from_top(student), target)
    # Log-odds order the rows as the mass does, even where the mass rounds to 0 or 1.
    odds = (log_p[:, 1] - log_p[:, 0]).detach()
    easy = odds < odds.median()  # torch's median is the lower one
    if reverse:
        log_p, log_p_others, log_q, log_q_others = log_q, log_q_others, log_p, log_p_others
    nckd = kl(log_p_others, log_q_others)
    return alpha * _mean_of(nckd, easy) + (1 - alpha) * _mean_of(kl(log_p, log_q) + nckd, ~easy)


def _mean_of(rows: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the selected rows, or 0 if none is selected."""
    return rows.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def _from_top(logits: Tensor) -> Tensor:
    # Only affects rounding: far from 0, a float32 log-sum-exp is coarser than the odds.
    return logits - logits.detach().amax(dim=-1, keepdim=True)


class ATKD(Objective):
    """`atkd_loss` as an objective, with the same parameters. Its rows are the valid tokens.

    Raises:
        ValueError: If `alpha` is not in [0, 1].
    """

    paper = Paper("Revisiting Knowledge Distillation for Autoregressive Language Models", 2024, "2402.11890")
    formula = (
        "alpha mean NCKD of rows with 1 - p_y below its median + (1 - alpha) mean (TCKD + NCKD) of the others"
    )
    defaults_from = "the official code (distill/train.py): alpha 0.2"
    disagreements = (
        "Where no row is below the median (two rows, or equal rows) the official code divides 0 by 0; here "
        "the easy half is 0.",
        "The official code adds no cross-entropy on the tokens; a recipe may.",
    )
    needs = ("logits", "labels")
    couples_rows = True

    def __init__(self, alpha: float = 0.2, reverse: bool = False) -> None:
        super().__init__()
        check_fraction("ATKD", alpha=alpha)
        self.alpha, self.reverse = alpha, reverse

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `atkd_loss` of the logits and the batch's target: a scalar in nats."""
        return atkd_loss(student.logits, teacher.logits, batch.target, self.alpha, self.reverse)
