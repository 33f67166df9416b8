"""DTKD (Wei and Bai 2024, arXiv:2404.12711): KD at temperatures that follow each row's largest logits."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.utils.validation import check_non_negative, check_positive

FLOOR = 1e-3
"""Lower bound of a row's largest logit in the temperatures, on both sides."""


def dtkd_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float = 3.0,
    beta: float = 1.0,
    temperature: float = 4.0,
    detach: bool = False,
) -> Tensor:
    """Return alpha * DT + beta * T^2 * KL(p_T || q_T), averaged over rows.

    DT is T_s * T_t * KL of the teacher at T_t from the student at T_s. The two temperatures of a row sum to 2
    T, in proportion to its largest logits u (student) and v (teacher): T_s = 2 T u / (u + v) and T_t = 2 T v
    / (u + v). u and v are clamped from below at FLOOR, because the published form becomes infinite or
    negative near 0. Rows whose largest logits are both above it have the published value.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        alpha: Weight of DT.
        beta: Weight of the KL divergence at T.
        temperature: T, the mean of both temperatures.
        detach: Stop the gradient through the temperatures. The published code lets it flow through u.

    Returns:
        A scalar in nats.
    """
    t_s, t_t = _temperatures(student.detach() if detach else student, teacher, temperature)
    dynamic = t_s * t_t * kl(_log_softmax(teacher, t_t), _log_softmax(student, t_s))
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    return (alpha * dynamic + beta * temperature**2 * kl(log_p, log_q)).mean()


def _temperatures(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return T_s and T_t of each row: [N, C] twice -> [N] twice."""
    u, v = (logits.amax(dim=-1).clamp(min=FLOOR) for logits in (student, teacher))
    return 2 * temperature * u / (u + v), 2 * temperature * v / (u + v)


def _log_softmax(logits: Tensor, temperature: Tensor) -> Tensor:
    """Return the log-softmax of each row at its own temperature [N]."""
    # Subtract the maximum before dividing: large logits over a small temperature lose their differences.
    below = logits - logits.detach().amax(dim=-1, keepdim=True)
    return F.log_softmax(below / temperature[:, None], dim=-1)


class DTKD(Objective):
    """`dtkd_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `temperature` is not positive and finite, or `alpha` or `beta` is negative or not
            finite.
    """

    paper = Paper("Dynamic Temperature Knowledge Distillation", 2024, "2404.12711")
    formula = (
        "alpha T_s T_t KL(p at T_t || q at T_s) + beta T^2 KL(p_T || q_T), "
        "T_s = 2 T max z_s / (max z_s + max z_t), T_t = 2 T max z_t / (max z_s + max z_t)"
    )
    defaults_from = "the official code (DTKD, mdistiller/engine/cfg.py)"
    disagreements = (
        "The authors' erratum says that equations 4 and 5 of the paper, which derive the temperatures, are "
        "wrong; kdbench uses the temperatures of the official code.",
        "Where u + v is near or below 0 the official temperatures become infinite or negative; here u and v "
        "are at least 1e-3.",
        "The official code lets the gradient flow through the temperatures; kdbench does too unless `detach`"
        " is set.",
    )

    def __init__(
        self, alpha: float = 3.0, beta: float = 1.0, temperature: float = 4.0, detach: bool = False
    ) -> None:
        super().__init__()
        check_positive("DTKD", temperature=temperature)
        check_non_negative("DTKD", alpha=alpha, beta=beta)
        self.alpha, self.beta, self.temperature, self.detach = alpha, beta, temperature, detach

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `dtkd_loss` of the logits: a scalar in nats."""
        return dtkd_loss(student.logits, teacher.logits, self.alpha, self.beta, self.temperature, self.detach)
