"""TTM, Zheng and Yang 2024, arXiv:2402.11148: KL(p^gamma / sum p^gamma || q)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl

TRANSFORMS = ("power", "mix", "log1p")

_FAR = 40.0
"""exp(-40) is nothing beside 1 in float64."""


def ttm_loss(student: Tensor, teacher: Tensor, gamma: float, transform: str = "power") -> Tensor:
    """KL(transformed teacher || q): only the teacher is transformed, averaged over rows.

    student, teacher: logits [N, C]; gamma = 1/T. Returns a scalar in nats. No T^2.
    transform: see `transformed`; the paper's is the power p^gamma / sum(p^gamma) = softmax(gamma * logits).
    """
    log_q, log_p = F.log_softmax(student, dim=-1), transformed(teacher, gamma, transform)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def transformed(teacher: Tensor, gamma: float, transform: str = "power") -> Tensor:
    """Log-probabilities [N, C] of the teacher's softmax p, flattened by a map that rises in p.

    gamma = 1 leaves p as it is, and gamma towards 0 tends to uniform. `mix` and `log1p` are not the paper's, which
    leaves other maps open; they take 0 < gamma <= 1. What they flatten differs:
    power: p^gamma, every ratio of two classes alike.
    mix: gamma p + (1 - gamma) / C, the unlikely classes, which are lifted to a floor.
    log1p: log(1 + s p) with s = exp(1 / gamma - 1) - 1, the likely classes, those above 1/s or so; the ratios of
    less likely ones stay.
    ValueError for an unknown transform.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"TTM: transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}")
    if transform == "power" or gamma == 1:
        return F.log_softmax(gamma * teacher, dim=-1)
    log_p = F.log_softmax(teacher, dim=-1)
    if transform == "mix":
        floor = torch.full_like(log_p, math.log((1 - gamma) / log_p.shape[-1]))
        return torch.logaddexp(log_p + math.log(gamma), floor)
    log_sp = log_p + (1 / gamma - 1) + math.log(-math.expm1(1 - 1 / gamma))
    return F.log_softmax(_log_softplus(log_sp), dim=-1)


def _log_softplus(x: Tensor) -> Tensor:
    """log(log(1 + e^x)), which is x far below 0."""
    return F.softplus(x.clamp(min=-_FAR), threshold=_FAR).log() + (x + _FAR).clamp(max=0)


def ttm_diagnostics(student: Tensor, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
    """The parts of TTM at gamma = 1/T: it is `kd` - `student_entropy` + `teacher_entropy`, all in nats.

    student, teacher: logits [N, C]; 0 < temperature < inf. Each part is a scalar, averaged over rows:
    kd: T * KL(p_T || q_T), the distillation loss over T.
    student_entropy: (T - 1) * Renyi entropy of q of order 1/T, what TTM rewards beyond distillation.
    teacher_entropy: (T - 1) * Shannon entropy of p_T, which no student changes.
    """
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    # (T - 1) H_{1/T}(q) without the division by 1 - 1/T
    renyi = temperature * (F.log_softmax(student, dim=-1) / temperature).logsumexp(dim=-1)
    shannon = -(log_p.exp() * log_p).sum(dim=-1)
    return {
        "kd": temperature * kl(log_p, log_q).mean(),
        "student_entropy": renyi.mean(),
        "teacher_entropy": (temperature - 1) * shannon.mean(),
    }


class TTM(Objective):
    """`ttm_loss` as an objective.

    Raises ValueError unless 0 < gamma < inf (<= 1 for another transform than the power) and the transform is known.
    """

    paper = Paper("Knowledge Distillation Based on Transformed Teacher Matching", 2024, "2402.11148")
    formula = "KL(p^gamma / sum p^gamma || q), only the teacher is transformed"
    defaults_from = "no default for gamma; tables 8 and 9 of the paper have one per pair, with the weight"
    disagreements = (
        "The official code raises softmax probabilities to gamma, so that one which underflows stays 0; here the "
        "power is softmax(gamma * logits), exact at any logit.",
        "The official flag for gamma defaults to 1, plain KL at temperature 1; here gamma has to be given.",
        "The paper leaves other transforms than the power open; transform=mix and transform=log1p are ours.",
    )

    def __init__(self, gamma: float, transform: str = "power") -> None:
        super().__init__()
        if transform not in TRANSFORMS:
            raise ValueError(f"TTM: transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}")
        if not 0 < gamma < math.inf:
            raise ValueError(f"TTM: gamma must be positive and finite, got {gamma}")
        if transform != "power" and gamma > 1:
            raise ValueError(f"TTM: gamma must be at most 1 with transform={transform}, got {gamma}")
        self.gamma, self.transform = gamma, transform

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`ttm_loss` of the logits: a scalar in nats."""
        return ttm_loss(student.logits, teacher.logits, self.gamma, self.transform)
