"""Weighted sum of forward and reverse KL, a baseline of Wang et al. 2025 (arXiv:2505.04560)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.utils.validation import check_fraction


def wsd_loss(student: Tensor, teacher: Tensor, reverse: float = 0.5) -> Tensor:
    """Return (1 - reverse) KL(p || q) + reverse KL(q || p), averaged over rows; no temperature.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        reverse: Weight of the reverse KL divergence.

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return ((1 - reverse) * kl(log_p, log_q) + reverse * kl(log_q, log_p)).mean()


class WSD(Objective):
    """`wsd_loss` as an objective, with the same parameter.

    Raises:
        ValueError: If `reverse` is not in [0, 1].
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )
    formula = "(1 - r) KL(p || q) + r KL(q || p), r = reverse"
    defaults_from = "the default of the authors' code (0.5; `symmetric_kl` there is the same with 0.1)"
    disagreements = (
        "The forward part of the code is the cross-entropy -sum p log q: it has the same gradient, and the "
        "sum is larger by (1 - r) times the teacher's entropy.",
    )
    f_divergence = True

    def __init__(self, reverse: float = 0.5) -> None:
        super().__init__()
        check_fraction("WSD", reverse=reverse)
        self.reverse = reverse

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `wsd_loss` of the logits: a scalar in nats."""
        return wsd_loss(student.logits, teacher.logits, self.reverse)
