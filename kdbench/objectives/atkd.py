"""ATKD, Zhong et al. 2024, arXiv:2402.11890: alpha NCKD of easy rows + (1 - alpha) (TCKD + NCKD) of hard ones."""

from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import decouple, kl


def atkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, alpha: float = 0.2, reverse: bool = False
) -> Tensor:
    """alpha * the easy rows' mean NCKD + (1 - alpha) * the hard rows' mean TCKD + NCKD.

    student, teacher: logits [N, C], C >= 2, of the valid tokens; target: their gold tokens [N].
    Returns a scalar in nats. No temperature.
    TCKD is the KL of (target, everything else), NCKD the KL among the C - 1 others, not multiplied by the
    teacher's mass on them. A row is easy if that mass, 1 - p_y, is below its median over the batch, the lower
    of the middle two where N is even. Each half is divided by its own rows; where none is easy, it counts 0.
    reverse: KL(student || teacher) in both; the teacher's mass splits the rows all the same.
    """
    log_p, log_p_others = decouple(_from_top(teacher), target)
    log_q, log_q_others = decouple(_from_top(student), target)
    # The log-odds of that mass order rows as the mass does, and still do where it rounds to 0 or 1.
    odds = (log_p[:, 1] - log_p[:, 0]).detach()
    easy = odds < odds.median()  # torch's median is the lower one
    if reverse:
        log_p, log_p_others, log_q, log_q_others = log_q, log_q_others, log_p, log_p_others
    nckd = kl(log_p_others, log_q_others)
    return alpha * _mean_of(nckd, easy) + (1 - alpha) * _mean_of(kl(log_p, log_q) + nckd, ~easy)


def _mean_of(rows: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen rows, 0 where none is."""
    return rows.where(chosen, 0.0).sum() / chosen.sum().clamp(min=1)


def _from_top(logits: Tensor) -> Tensor:
    # Changes nothing but the rounding: far from 0 a log-sum-exp in float32 is coarser than the odds.
    return logits - logits.detach().amax(dim=-1, keepdim=True)


class ATKD(Objective):
    """`atkd_loss` as an objective. Rows are valid tokens. Raises ValueError unless 0 <= alpha <= 1."""

    paper = Paper("Revisiting Knowledge Distillation for Autoregressive Language Models", 2024, "2402.11890")
    formula = (
        "alpha mean NCKD of rows with 1 - p_y below its median + (1 - alpha) mean (TCKD + NCKD) of the others"
    )
    defaults_from = "official code (distill/train.py): alpha 0.2"
    disagreements = (
        "Where no row is below the median (two rows, or equal ones) the official code divides 0 by 0; here the "
        "easy half is 0.",
        "The official code adds no cross-entropy on the tokens; a recipe here may.",
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
