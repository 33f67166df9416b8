"""What is measured of one side's outputs, and between two sides': in nats, in log space, averaged over rows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench.functional.divergences import kl
from kdbench.objectives.ttm import ttm_diagnostics, ttm_loss


def shannon_entropy(logits: Tensor) -> Tensor:
    """Of each row's softmax, in nats: [N, C] -> [N]."""
    log_p = F.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def renyi_entropy(logits: Tensor, order: float) -> Tensor:
    """log(sum of p^order) / (1 - order) of each row's softmax p, in nats: [N, C] -> [N]; Shannon's at order 1."""
    if order == 1:
        return shannon_entropy(logits)
    return (order * F.log_softmax(logits, dim=-1)).logsumexp(dim=-1) / (1 - order)


def predictive_kl(reference: Tensor, subject: Tensor) -> float:
    """D(p || q) of the two sides' softmaxes: half of the fidelity of Stanton et al. 2021, arXiv:2106.05945."""
    return float(kl(F.log_softmax(reference, dim=-1), F.log_softmax(subject, dim=-1)).mean())


def ttm_identity(reference: Tensor, subject: Tensor, gamma: float) -> dict[str, float]:
    """D(p_T || q) at T = 1 / gamma, and the three terms that it is the sum of (Zheng and Yang 2024, 2402.11148).

    transformed_kl: D(p_T || q), the teacher's power transform against the student's own softmax.
    distillation: T * D(p_T || q_T). student_entropy: (T - 1) * Renyi entropy of q of order gamma.
    teacher_entropy: (T - 1) * Shannon entropy of p_T.
    residual: transformed_kl - (distillation - student_entropy + teacher_entropy); 0 but for rounding.
    """
    parts = {key: float(value) for key, value in ttm_diagnostics(subject, reference, 1 / gamma).items()}
    direct = float(ttm_loss(subject, reference, gamma))
    summed = parts["kd"] - parts["student_entropy"] + parts["teacher_entropy"]
    return {
        "transformed_kl": direct,
        "distillation": parts["kd"],
        "student_entropy": parts["student_entropy"],
        "teacher_entropy": parts["teacher_entropy"],
        "residual": direct - summed,
    }
