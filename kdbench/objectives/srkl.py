"""Skewed reverse KL (DistiLLM, Ko et al. 2024, arXiv:2402.03898, section 3.1)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import skewed_kl
from kdbench.utils.validation import check_fraction


def srkl_loss(student: Tensor, teacher: Tensor, skew: float = 0.1) -> Tensor:
    """Return KL(q || (1 - skew) p + skew q), averaged over rows; the reverse KL divergence at skew 0.

    Args:
        student: Student logits [N, C]; no temperature.
        teacher: Teacher logits [N, C].
        skew: Weight of the student in the mixture.

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return skewed_kl(log_q, log_p, skew).mean()


class SRKL(Objective):
    """`srkl_loss` as an objective, with the same parameter.

    Raises:
        ValueError: If `skew` is not in [0, 1).
    """

    paper = Paper("DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024, "2402.03898")
    formula = "KL(q || (1 - a) p + a q), a = skew"
    defaults_from = "the code of DistiLLM and ABKD for GPT-2 (skew 0.1)"
    f_divergence = True

    def __init__(self, skew: float = 0.1) -> None:
        super().__init__()
        check_fraction("SRKL", closed="left", skew=skew)
        self.skew = skew

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `srkl_loss` of the logits: a scalar in nats."""
        return srkl_loss(student.logits, teacher.logits, self.skew)
