"""TTM, transformed teacher matching (Zheng and Yang 2024, arXiv:2402.11148)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.utils.validation import check_choice, check_positive

TRANSFORMS = ("power", "mix", "log1p")

_FAR = 40.0
"""Adding exp(-40) to 1 changes nothing in float64."""


def ttm_loss(student: Tensor, teacher: Tensor, gamma: float = 0.3, transform: str = "power") -> Tensor:
    """Return KL(transformed teacher || q), averaged over rows; no T^2.

    Only the teacher is transformed.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        gamma: Strength of the transform, 1/T.
        transform: See `transform_teacher`. The paper's is the power p^gamma / sum(p^gamma) = softmax(gamma *
            logits).

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), transform_teacher(teacher, gamma, transform)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def transform_teacher(teacher: Tensor, gamma: float, transform: str = "power") -> Tensor:
    """Return the log-probabilities of the teacher's softmax p, flattened by a map that rises in p.

    gamma = 1 leaves p unchanged, and gamma -> 0 tends to the uniform distribution. The paper leaves other
    maps than the power open; `mix` and `log1p` are kdbench's, and take 0 < gamma <= 1. The maps differ in
    what they flatten:

    * `power`: p^gamma changes every ratio of two classes alike.
    * `mix`: gamma p + (1 - gamma) / C lifts the unlikely classes to a floor.
    * `log1p`: log(1 + s p) with s = exp(1 / gamma - 1) - 1 flattens the likely classes, those above about
    1/s; the ratios of less likely classes stay.

    Args:
        teacher: Teacher logits [N, C].
        gamma: Strength of the transform.
        transform: `power`, `mix` or `log1p`.

    Returns:
        Log-probabilities [N, C].

    Raises:
        ValueError: If the transform is unknown.
    """
    check_choice("TTM", TRANSFORMS, transform=transform)
    if transform == "power" or gamma == 1:
        return F.log_softmax(gamma * teacher, dim=-1)
    log_p = F.log_softmax(teacher, dim=-1)
    if transform == "mix":
        floor = torch.full_like(log_p, math.log((1 - gamma) / log_p.shape[-1]))
        return torch.logaddexp(log_p + math.log(gamma), floor)
    log_sp = log_p + (1 / gamma - 1) + math.log(-math.expm1(1 - 1 / gamma))
    return F.log_softmax(_log_softplus(log_sp), dim=-1)


def _log_softplus(x: Tensor) -> Tensor:
    """Return log(log(1 + e^x)), which is x far below 0."""
    return F.softplus(x.clamp(min=-_FAR), threshold=_FAR).log() + (x + _FAR).clamp(max=0)


def ttm_diagnostics(student: Tensor, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
    """Return the parts of TTM at gamma = 1/T: TTM = `kd` - `student_entropy` + `teacher_entropy`.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        temperature: T, 0 < T < inf.

    Returns:
        Three scalars in nats, averaged over rows. `kd`: T * KL(p_T || q_T), the distillation loss over T.
        `student_entropy`: (T - 1) * Renyi entropy of q of order 1/T, which TTM rewards in addition to
        distillation. `teacher_entropy`: (T - 1) * Shannon entropy of p_T, which no student changes.
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
    """`ttm_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `gamma` is not positive and finite (and at most 1 for transforms other than the power),
            or the transform is unknown.
    """

    paper = Paper("Knowledge Distillation Based on Transformed Teacher Matching", 2024, "2402.11148")
    formula = "KL(p^gamma / sum p^gamma || q), only the teacher is transformed"
    defaults_from = "no default for gamma; tables 8 and 9 of the paper list it per pair, with the weight"
    disagreements = (
        "The official code raises softmax probabilities to gamma, so a probability that underflows stays 0. "
        "Here the power is softmax(gamma * logits), exact at any logit.",
        "The official flag for gamma defaults to 1, which is plain KL at temperature 1; here gamma has no "
        "default.",
        "The paper leaves other transforms than the power open; transform=mix and transform=log1p are "
        "kdbench's.",
    )
    neutral_options: ClassVar[Mapping[str, Any]] = {"transform": "power"}

    def __init__(self, gamma: float = 0.3, transform: str = "power") -> None:
        super().__init__()
        check_choice("TTM", TRANSFORMS, transform=transform)
        check_positive("TTM", gamma=gamma)
        if transform != "power" and gamma > 1:
            raise ValueError(f"TTM: gamma must be in (0, 1] with transform={transform}, got {gamma}")
        self.gamma, self.transform = gamma, transform

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `ttm_loss` of the logits: a scalar in nats."""
        return ttm_loss(student.logits, teacher.logits, self.gamma, self.transform)
