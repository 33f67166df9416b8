"""ABKD, Wang et al. 2025, arXiv:2505.04560: -1/(ab) sum [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core import Batch, Objective, Outputs, Paper

LOG_PROBABILITY_FLOOR = -30.0
"""For both sides where alpha or beta is negative: negative powers of a vanishing probability overflow."""

_NEAR = 1e-2
"""Exponents closer than this take the power series, which then misses less than 2e-9 of the value."""


def abkd_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float,
    beta: float,
    temperature: float = 4.0,
    official_scale: bool = False,
) -> Tensor:
    """Alpha-beta divergence D(p_T || q_T) of teacher from student, averaged over rows. No T^2.

    student, teacher: logits [N, C]. Returns a scalar in nats.
    (1, 0) is KL(p || q), (0, 1) is KL(q || p), (1, 1) is half the squared distance of p and q.

    With x = log p, y = log q and s = alpha + beta the divergence is the sum over classes of (x - y)^2 times
    the second divided difference of exp at s*x, alpha*x + beta*y and s*y. That is the paper's formula off the
    axes (alpha = 0, beta = 0, s = 0) and its limit on them, and never divides by alpha, beta or s.

    official_scale: on the axes the published code has 1/alpha (or 1/beta) where the limit has its square;
    True restores that, and with it a jump between the axes and their neighbourhood.
    """
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    log_q = F.log_softmax(student / temperature, dim=-1)
    if min(alpha, beta) < 0:
        log_p, log_q = log_p.clamp(min=LOG_PROBABILITY_FLOOR), log_q.clamp(min=LOG_PROBABILITY_FLOOR)
    both = alpha + beta
    u, v, w = both * log_p, alpha * log_p + beta * log_q, both * log_q
    # The gaps u-v, v-w and u-w are beta, alpha and both times the same number: divide by the widest.
    if alpha * beta >= 0:
        curvature = _exp_curvature(u, v, w)
    elif abs(alpha) >= abs(beta):
        curvature = _exp_curvature(v, u, w)
    else:
        curvature = _exp_curvature(u, w, v)
    divergence = ((log_p - log_q).square() * curvature).sum(dim=-1).mean()
    return _official_scale(alpha, beta) * divergence if official_scale else divergence


def _exp_slope(u: Tensor, v: Tensor) -> Tensor:
    """First divided difference (e^u - e^v) / (u - v); e^u where the two meet. Elementwise."""
    gap = (u - v).abs()
    near = gap < _NEAR
    wide = torch.where(near, 1.0, gap)
    series = 1 - gap / 2 * (1 - gap / 3 * (1 - gap / 4 * (1 - gap / 5)))
    return torch.maximum(u, v).exp() * torch.where(near, series, -torch.expm1(-wide) / wide)


def _exp_curvature(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Second divided difference of exp; e^u / 2 where all meet. Elementwise; |u - w| is the widest gap."""
    centre = (u + v + w) / 3
    a, b, c = u - centre, v - centre, w - centre
    series = centre.exp() * (1 / 2 + (a * a + b * b + c * c) / 48)
    near = (u - w).abs() < _NEAR
    return torch.where(near, series, (_exp_slope(u, v) - _exp_slope(v, w)) / torch.where(near, 1.0, u - w))


def _official_scale(alpha: float, beta: float) -> float:
    if alpha == 0:
        return beta or 1.0
    return alpha if beta == 0 or alpha + beta == 0 else 1.0


class ABKD(Objective):
    """`abkd_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and alpha, beta are finite.
    """

    paper = Paper(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "2505.04560",
    )

    def __init__(
        self, alpha: float, beta: float, temperature: float = 4.0, official_scale: bool = False
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"ABKD: temperature must be positive and finite, got {temperature}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not math.isfinite(value):
                raise ValueError(f"ABKD: {name} must be finite, got {value}")
        self.alpha, self.beta = alpha, beta
        self.temperature, self.official_scale = temperature, official_scale

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`abkd_loss` of the logits: a scalar in nats."""
        return abkd_loss(
            student.logits, teacher.logits, self.alpha, self.beta, self.temperature, self.official_scale
        )
