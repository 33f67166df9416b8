"""WTTM, Zheng and Yang 2024, arXiv:2402.11148: U KL(p^gamma / U || q), U = sum p^gamma."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl

WEIGHTINGS = ("power_sum", "shannon", "none")


def wttm_loss(student: Tensor, teacher: Tensor, gamma: float, weighting: str = "power_sum") -> Tensor:
    """w * KL(p^gamma / U || q), where U = sum(p^gamma) over classes, averaged over rows.

    student, teacher: logits [N, C]; gamma = 1/T. Returns a scalar in nats. No T^2.
    weighting: how w, 1 for a one-hot teacher, grows with the softness of the row's teacher; it is not normalised
    over the batch.
    power_sum: w = U, as in the paper, which is exp((1 - gamma) * Renyi entropy of p of order gamma).
    shannon: w = exp((1 - gamma) * Shannon entropy of p). Both are C^(1 - gamma) for a uniform teacher; where a few
    classes have nearly all the mass this one is smaller, for it hardly sees the others.
    none: w = 1, which is TTM.
    ValueError for an unknown weighting.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    log_power = gamma * log_p
    log_u = log_power.logsumexp(dim=-1, keepdim=True)
    divergence = kl(log_power - log_u, log_q)
    if weighting == "power_sum":
        return (log_u.squeeze(-1).exp() * divergence).mean()
    if weighting == "shannon":
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        return (((1 - gamma) * entropy).exp() * divergence).mean()
    if weighting == "none":
        return divergence.mean()
    raise ValueError(f"WTTM: weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")


class WTTM(Objective):
    """`wttm_loss` as an objective. Raises ValueError unless 0 < gamma < inf and the weighting is known."""

    paper = Paper("Knowledge Distillation Based on Transformed Teacher Matching", 2024, "2402.11148")
    formula = "U KL(p^gamma / U || q), U = sum p^gamma of each row"
    defaults_from = "no default for gamma; tables 8 and 9 of the paper have one per pair, with the weight"
    disagreements = (
        "The official code raises softmax probabilities to gamma, so that one which underflows stays 0; here all is "
        "in log space, exact at any logit.",
        "The paper leaves other weights than the power sum open; weighting=shannon is ours, weighting=none is TTM.",
    )

    def __init__(self, gamma: float, weighting: str = "power_sum") -> None:
        super().__init__()
        if not 0 < gamma < math.inf:
            raise ValueError(f"WTTM: gamma must be positive and finite, got {gamma}")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"WTTM: weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
        self.gamma, self.weighting = gamma, weighting

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`wttm_loss` of the logits: a scalar in nats."""
        return wttm_loss(student.logits, teacher.logits, self.gamma, self.weighting)
