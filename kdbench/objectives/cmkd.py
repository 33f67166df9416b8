"""CMKD, Niu et al. 2024, arXiv:2410.06561 (a reimplementation): T^2 ((1 - w) (1 - Pearson) + w (1 - Spearman))."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import cosine_similarity, soft_ranks, standardise


def cmkd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0, tau: float = 0.1) -> Tensor:
    """T^2 * ((1 - w) * (1 - Pearson) + w * (1 - Spearman)), averaged over rows.

    student, teacher: logits [N, C], C >= 2. Returns a dimensionless scalar. Both correlations see z-scored logits:
    Pearson's their softened probabilities, Spearman's their soft ranks (width tau, in standard deviations). w is the
    entropy of the teacher's own probabilities over log C: the harder a row, the more its ranks count.
    """
    log_p = F.log_softmax(teacher, dim=-1)
    hard = -(log_p.exp() * log_p).sum(dim=-1) / math.log(teacher.shape[-1])
    s, z = standardise(student), standardise(teacher)
    q, p = (F.softmax(scores / temperature, dim=-1) for scores in (s, z))
    pearson = cosine_similarity(q - q.mean(dim=-1, keepdim=True), p - p.mean(dim=-1, keepdim=True))
    spearman = cosine_similarity(soft_ranks(s, tau), soft_ranks(z, tau))
    return temperature**2 * ((1 - hard) * (1 - pearson) + hard * (1 - spearman)).mean()


class CMKD(Objective):
    """`cmkd_loss` as an objective: a reimplementation from the abstract, for want of the code.

    Raises ValueError unless 0 < temperature, tau < inf.
    """

    paper = Paper(
        "Efficient and Robust Knowledge Distillation from A Stronger Teacher Based on Correlation Matching",
        2024,
        "2410.06561",
    )
    formula = "T^2 mean_i [(1 - w_i) (1 - Pearson(q_T, p_T)) + w_i (1 - Spearman)], w_i = H(p_i) / log C"
    defaults_from = (
        "ours: temperature as of KD; a tenth of the logits' standard deviation as the width of a rank"
    )
    disagreements = (
        "a reimplementation from the abstract: no official code was found, so its numbers are not the paper's",
        "the abstract says that the weights follow a sample's difficulty, not how: here by the entropy of the "
        "teacher's probabilities at T = 1, before its logits are z-scored",
        "the ranks are sums of sigmoids, where the paper may project onto the permutahedron",
    )

    def __init__(self, temperature: float = 4.0, tau: float = 0.1) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("tau", tau)):
            if not 0 < value < math.inf:
                raise ValueError(f"CMKD: {name} must be positive and finite, got {value}")
        self.temperature, self.tau = temperature, tau

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`cmkd_loss` of the logits: a dimensionless scalar."""
        return cmkd_loss(student.logits, teacher.logits, self.temperature, self.tau)
