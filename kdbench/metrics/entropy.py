"""Entropies of one network and divergences between two, in nats, computed in log space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench.functional.divergences import kl
from kdbench.objectives.ttm import ttm_diagnostics, ttm_loss


def shannon_entropy(logits: Tensor) -> Tensor:
    """Return the Shannon entropy of each row's softmax, in nats: [N, C] -> [N]."""
    log_p = F.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def renyi_entropy(logits: Tensor, order: float) -> Tensor:
    """Return the Renyi entropy log(sum of p^order) / (1 - order) of each row's softmax p, in nats: [N, C] -> [N].

    Order 1 is the Shannon entropy.
    """
    if order == 1:
        return shannon_entropy(logits)
    return (order * F.log_softmax(logits, dim=-1)).logsumexp(dim=-1) / (1 - order)


def predictive_kl(reference: Tensor, subject: Tensor) -> float:
    """Return the mean KL divergence D(p || q) of two networks' softmaxes, in nats.

    It is one of the two measures of fidelity in Stanton et al. 2021, arXiv:2106.05945.

    Args:
        reference: Logits of p, [N, C].
        subject: Logits of q, [N, C].
    """
    return float(kl(F.log_softmax(reference, dim=-1), F.log_softmax(subject, dim=-1)).mean())


def ttm_identity(reference: Tensor, subject: Tensor, gamma: float) -> dict[str, float]:
    """Decompose D(p_T || q) at T = 1 / gamma (Zheng and Yang 2024, arXiv:2402.11148).

    Args:
        reference: The teacher's logits [N, C], of p.
        subject: The student's logits [N, C], of q.
        gamma: Exponent of the power transform.

    Returns:
        Means over rows, in nats: `transformed_kl`, D(p_T || q), with the power transform on the teacher only;
        `distillation`, T * D(p_T || q_T); `student_entropy`, (T - 1) * Renyi entropy of q of order gamma;
        `teacher_entropy`, (T - 1) * Shannon entropy of p_T; and `residual`, transformed_kl - (distillation -
        student_entropy + teacher_entropy), 0 up to rounding.
    """
    terms = {key: float(value) for key, value in ttm_diagnostics(subject, reference, 1 / gamma).items()}
    direct = float(ttm_loss(subject, reference, gamma))
    total = terms["kd"] - terms["student_entropy"] + terms["teacher_entropy"]
    return {
        "transformed_kl": direct,
        "distillation": terms["kd"],
        "student_entropy": terms["student_entropy"],
        "teacher_entropy": terms["teacher_entropy"],
        "residual": direct - total,
    }
