"""DTKD, Wei and Bai 2024, arXiv:2404.12711: alpha T_s T_t KL(p at T_t || q at T_s) + beta T^2 KL(p_T || q_T)."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl

FLOOR = 1e-3
"""A row's largest logit counts as at least this much in the temperatures, on either side."""


def dtkd_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float = 3.0,
    beta: float = 1.0,
    temperature: float = 4.0,
    detach: bool = False,
) -> Tensor:
    """alpha * DT + beta * T^2 * KL(p_T || q_T), averaged over rows.

    student, teacher: logits [N, C]. Returns a scalar in nats.
    DT is T_s * T_t * KL of the teacher at T_t from the student at T_s. A row shares 2 T between them, in the
    proportion of its largest logits u (student) and v (teacher): T_s = 2 T u / (u + v), T_t = 2 T v / (u + v).
    u and v are clamped from below at FLOOR, where the published form becomes infinite or negative; rows whose
    largest logits are both above it have the published value.
    detach: no gradient through the temperatures; the published code has it, through u.
    """
    t_s, t_t = _temperatures(student.detach() if detach else student, teacher, temperature)
    dynamic = t_s * t_t * kl(_log_softmax(teacher, t_t), _log_softmax(student, t_s))
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return (alpha * dynamic + beta * temperature**2 * kl(log_p, log_q)).mean()


def _temperatures(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T_s and T_t of each row: [N, C] twice -> [N] twice."""
    u, v = (logits.amax(dim=-1).clamp(min=FLOOR) for logits in (student, teacher))
    return 2 * temperature * u / (u + v), 2 * temperature * v / (u + v)


def _log_softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    """Log-softmax of each row at its own temperature [N]."""
    # Taken off first, and not by the softmax: divided by a small temperature, large logits lose their differences.
    below = logits - logits.detach().amax(dim=-1, keepdim=True)
    return F.log_softmax(below / temperature[:, None], dim=-1)


class DTKD(Objective):
    """`dtkd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and 0 <= alpha, beta < inf.
    """

    paper = Paper("Dynamic Temperature Knowledge Distillation", 2024, "2404.12711")
    formula = (
        "alpha T_s T_t KL(p at T_t || q at T_s) + beta T^2 KL(p_T || q_T), "
        "T_s = 2 T max z_s / (max z_s + max z_t), T_t = 2 T max z_t / (max z_s + max z_t)"
    )
    defaults_from = "official code (DTKD, mdistiller/engine/cfg.py)"
    disagreements = (
        "The authors' erratum says that equations 4 and 5 of the paper, which derive the temperatures, are wrong; "
        "the temperatures here are the official code's.",
        "Near or below 0, u + v makes the official temperatures infinite or negative; here u and v are at least 1e-3.",
        "The official code lets the gradient flow through the temperatures, and so does this one unless `detach`.",
    )

    def __init__(
        self, alpha: float = 3.0, beta: float = 1.0, temperature: float = 4.0, detach: bool = False
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"DTKD: temperature must be positive and finite, got {temperature}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value < math.inf:
                raise ValueError(f"DTKD: {name} must be finite and not negative, got {value}")
        self.alpha, self.beta, self.temperature, self.detach = alpha, beta, temperature, detach

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`dtkd_loss` of the logits: a scalar in nats."""
        return dtkd_loss(student.logits, teacher.logits, self.alpha, self.beta, self.temperature, self.detach)
