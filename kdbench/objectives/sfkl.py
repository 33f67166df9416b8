"""Skewed forward KL (DistiLLM, Ko et al. 2024, arXiv:2402.03898, eq. 3)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import skewed_kl
from kdbench.utils.validation import check_fraction


def sfkl_loss(student: Tensor, teacher: Tensor, skew: float = 0.1) -> Tensor:
    """Return KL(p || skew p + (1 - skew) q), averaged over rows; the forward KL divergence at skew 0.

    Args:
        student: Student logits [N, C]; no temperature.
        teacher: Teacher logits [N, C].
        skew: Weight of the teacher in the mixture.

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    return skewed_kl(log_p, log_q, skew).mean()


class SFKL(Objective):
    """`sfkl_loss` as an objective, with the same parameter.

    Raises:
        ValueError: If `skew` is not in [0, 1).
    """

    paper = Paper("DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024, "2402.03898")
    formula = "KL(p || a p + (1 - a) q), a = skew"
    defaults_from = "the code of DistiLLM and ABKD for GPT-2 (skew 0.1)"
    disagreements = (
        "The code of DistiLLM and ABKD computes -sum p log(a p + (1 - a) q), which has the same gradient and"
        " is larger by the teacher's entropy.",
    )
    f_divergence = True

    def __init__(self, skew: float = 0.1) -> None:
        super().__init__()
        check_fraction("SFKL", closed="left", skew=skew)
        self.skew = skew

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `sfkl_loss` of the logits: a scalar in nats."""
        return sfkl_loss(student.logits, teacher.logits, self.skew)
