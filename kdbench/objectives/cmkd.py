"""CMKD (Niu et al. 2024, arXiv:2410.06561): Pearson and Spearman correlation; from the abstract."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import cosine_similarity, soft_ranks, standardise
from kdbench.utils.validation import check_positive


def cmkd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0, tau: float = 0.1) -> Tensor:
    """Return T^2 * ((1 - w) * (1 - Pearson) + w * (1 - Spearman)), averaged over rows.

    Both correlations are of z-scored logits: Pearson of their softened probabilities, Spearman of their soft
    ranks. The weight w of a row is the entropy of the teacher's probabilities over log C, so ranks count more
    in harder rows.

    Args:
        student: Student logits [N, C], C >= 2.
        teacher: Teacher logits [N, C].
        temperature: T, which divides the z-scored logits of both sides.
        tau: Width of a soft rank, in standard deviations of the logits.

    Returns:
        A dimensionless scalar.
    """
    log_p = F.log_softmax(teacher, dim=-1)
    hard = -(log_p.exp() * log_p).sum(dim=-1) / math.log(teacher.shape[-1])
    s, z = standardise(student), standardise(teacher)
    q, p = (F.softmax(scores / temperature, dim=-1) for scores in (s, z))
    pearson = cosine_similarity(q - q.mean(dim=-1, keepdim=True), p - p.mean(dim=-1, keepdim=True))
    spearman = cosine_similarity(soft_ranks(s, tau), soft_ranks(z, tau))
    return temperature**2 * ((1 - hard) * (1 - pearson) + hard * (1 - spearman)).mean()


class CMKD(Objective):
    """`cmkd_loss` as an objective, with the same parameters.

    It is reimplemented from the abstract, because no official code was found.

    Raises:
        ValueError: If `temperature` or `tau` is not positive and finite.
    """

    paper = Paper(
        "Efficient and Robust Knowledge Distillation from A Stronger Teacher Based on Correlation Matching",
        2024,
        "2410.06561",
    )
    formula = "T^2 mean_i [(1 - w_i) (1 - Pearson(q_T, p_T)) + w_i (1 - Spearman)], w_i = H(p_i) / log C"
    defaults_from = (
        "kdbench: the temperature of KD; a tenth of the logits' standard deviation as the width of a rank"
    )
    high_cost = (
        "soft ranks compare all pairs of classes: nothing at C = 100, a million pairs per row at C = 1000"
    )
    disagreements = (
        "This is a reimplementation from the abstract: no official code was found, so the paper's numbers do"
        " not apply to it.",
        "The abstract says that the weights follow the difficulty of a sample, but not how. Here they follow"
        " the entropy of the teacher's probabilities at T = 1, before its logits are z-scored.",
        "The ranks are sums of sigmoids; the paper may project onto the permutahedron.",
    )

    def __init__(self, temperature: float = 4.0, tau: float = 0.1) -> None:
        super().__init__()
        check_positive("CMKD", temperature=temperature, tau=tau)
        self.temperature, self.tau = temperature, tau

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `cmkd_loss` of the logits: a dimensionless scalar."""
        return cmkd_loss(student.logits, teacher.logits, self.temperature, self.tau)
