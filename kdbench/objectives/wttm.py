"""WTTM, weighted transformed teacher matching (Zheng and Yang 2024, arXiv:2402.11148)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.utils.validation import check_choice, check_positive

WEIGHTINGS = ("power_sum", "shannon", "none")


def wttm_loss(student: Tensor, teacher: Tensor, gamma: float = 0.3, weighting: str = "power_sum") -> Tensor:
    """Return w * KL(p^gamma / U || q), where U = sum(p^gamma) over classes, averaged over rows; no T^2.

    The weight w of a row is 1 for a one-hot teacher and grows with the softness of the teacher. It is not
    normalised over the batch:

    * `power_sum`: w = U = exp((1 - gamma) * Renyi entropy of p of order gamma), as in the paper.
    * `shannon`: w = exp((1 - gamma) * Shannon entropy of p). Both are C^(1 - gamma) for a uniform teacher;
    this one is smaller where a few classes have nearly all the mass, because it hardly sees the others.
    * `none`: w = 1, which is TTM.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        gamma: Exponent of the teacher's probabilities, 1/T.
        weighting: `power_sum`, `shannon` or `none`.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: If the weighting is unknown.
    """
    check_choice("WTTM", WEIGHTINGS, weighting=weighting)
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    log_power = gamma * log_p
    log_u = log_power.logsumexp(dim=-1, keepdim=True)
    divergence = kl(log_power - log_u, log_q)
    if weighting == "power_sum":
        return (log_u.squeeze(-1).exp() * divergence).mean()
    if weighting == "shannon":
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        return (((1 - gamma) * entropy).exp() * divergence).mean()
    return divergence.mean()


class WTTM(Objective):
    """`wttm_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `gamma` is not positive and finite, or the weighting is unknown.
    """

    paper = Paper("Knowledge Distillation Based on Transformed Teacher Matching", 2024, "2402.11148")
    formula = "U KL(p^gamma / U || q), U = sum p^gamma of each row"
    defaults_from = "no default for gamma; tables 8 and 9 of the paper list it per pair, with the weight"
    disagreements = (
        "The official code raises softmax probabilities to gamma, so a probability that underflows stays 0. "
        "Here everything is computed in log space, exact at any logit.",
        "The paper leaves other weights than the power sum open; weighting=shannon is kdbench's, "
        "weighting=none is TTM.",
    )
    neutral_options: ClassVar[Mapping[str, Any]] = {"weighting": "power_sum"}

    def __init__(self, gamma: float = 0.3, weighting: str = "power_sum") -> None:
        super().__init__()
        check_positive("WTTM", gamma=gamma)
        check_choice("WTTM", WEIGHTINGS, weighting=weighting)
        self.gamma, self.weighting = gamma, weighting

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `wttm_loss` of the logits: a scalar in nats."""
        return wttm_loss(student.logits, teacher.logits, self.gamma, self.weighting)
