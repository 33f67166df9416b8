"""Divergences and statistics of logits that several objectives share; in log space and exact at any logit."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm
from torch.utils.checkpoint import checkpoint

LOG_PROBABILITY_FLOOR = -30.0
"""For both sides where alpha or beta is negative: negative powers of a vanishing probability overflow."""

_NEAR = 1e-2
"""Exponents closer than this take the power series, which then misses less than 2e-9 of the value."""


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row, in nats: log-probabilities [..., C] -> [...]."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)


def log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q): log-probabilities [..., C] -> [..., C]. 0 <= share < 1."""
    if share == 0:
        return log_q
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def skewed_kl(log_p: Tensor, log_q: Tensor, skew: float) -> Tensor:
    """Return KL(p || skew p + (1 - skew) q) of each row, in nats: log-probabilities [..., C] -> [...]."""
    return kl(log_p, log_mixture(log_p, log_q, skew))


def standardise(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Each row minus its mean, over its unbiased (C - 1) standard deviation plus eps (Sun et al. 2024).

    logits: [..., C], C >= 2. Dimensionless, of the same shape.
    """
    # Changes nothing but the rounding: far from 0 the mean of float32 logits is coarser than their spread.
    logits = logits - logits.detach().amax(dim=-1, keepdim=True)
    deviation = logits.std(dim=-1, correction=1, keepdim=True)
    return (logits - logits.mean(dim=-1, keepdim=True)) / (deviation + eps)


def decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (target, all others) [N, 2] and among the others [N, C - 1] (Zhao et al. 2022).

    logits: [N, C], C >= 2; target: class indices [N].
    """
    slots = torch.arange(logits.shape[-1] - 1, device=logits.device)
    # The official codes subtract 1000 from the target's logit; gathering the others is exact at any logit.
    others = logits.gather(-1, slots + (slots >= target[:, None]).long())
    binary = torch.cat((logits.gather(-1, target[:, None]), others.logsumexp(dim=-1, keepdim=True)), dim=-1)
    return F.log_softmax(binary, dim=-1), F.log_softmax(others, dim=-1)


def alpha_beta_divergence(
    log_p: Tensor, log_q: Tensor, alpha: float, beta: float, official_scale: bool = False
) -> Tensor:
    """Return the alpha-beta divergence D(p || q) of each row, in nats: log-probabilities [..., C] -> [...].

    (1, 0) is KL(p || q), (0, 1) is KL(q || p), (1, 1) is half the squared distance of p and q.
    With x = log p, y = log q and s = alpha + beta it is the sum over classes of (x - y)^2 times the second
    divided difference of exp at s*x, alpha*x + beta*y and s*y. That is the formula of Wang et al. 2025 off the
    axes (alpha = 0, beta = 0, s = 0) and its limit on them, and never divides by alpha, beta or s.

    Args:
        log_p: Log-probabilities of the teacher [..., C].
        log_q: Log-probabilities of the student [..., C].
        alpha: See above.
        beta: See above.
        official_scale: On the axes the published code has 1/alpha (or 1/beta) where the limit has its square; True
            restores that, and with it a jump between the axes and their neighbourhood.
    """
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
    divergence = ((log_p - log_q).square() * curvature).sum(dim=-1)
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


PAIRS_AT_ONCE = 2**22
"""How many pairs of classes `soft_ranks` holds in memory: 16 MiB in float32, which a cache has room for."""

PAIRS_AT_ONCE_ON_CUDA = 2**27
"""The same on an accelerator, 512 MiB: there each chunk costs a few launches, whatever its size."""


def soft_ranks(logits: Tensor, tau: float = 1.0) -> Tensor:
    """Differentiable ranks of the classes of each row (the largest logit has the highest), less their mean.

    logits: [N, C] -> [N, C]. The rank of class k is 1/2 + sum_j sigmoid((z_k - z_j) / tau), in [1, C], with mean
    (C + 1) / 2 at any logits; the hard rank as tau falls to 0. Rows are done in chunks where N * C * C is large;
    logits that want a gradient have them computed anew in the backward pass.
    """
    step = max(1, (PAIRS_AT_ONCE_ON_CUDA if logits.is_cuda else PAIRS_AT_ONCE) // logits.shape[-1] ** 2)
    if len(logits) <= step:
        return _soft_ranks(logits, tau)
    chunks = torch.split(logits, step)
    if not logits.requires_grad:
        return torch.cat([_soft_ranks(chunk, tau) for chunk in chunks])
    again = (
        checkpoint(_soft_ranks, chunk, tau, use_reentrant=False, preserve_rng_state=False) for chunk in chunks
    )
    return torch.cat(list(again))


def _soft_ranks(logits: Tensor, tau: float) -> Tensor:
    # sigmoid(x) - 1/2 = tanh(x / 2) / 2: odd, so that equal logits have exactly the mean rank
    gaps = logits[:, :, None] - logits[:, None, :]
    return torch.tanh(gaps / (2 * tau)).sum(dim=-1) / 2


def cosine_similarity(a: Tensor, b: Tensor, dim: int = -1, eps: float = 1e-8) -> Tensor:
    """Return a . b / (|a| |b| + eps) along `dim`; for centred vectors this is Pearson's coefficient."""
    norms: Tensor = vector_norm(a, dim=dim) * vector_norm(b, dim=dim)
    return (a * b).sum(dim=dim) / (norms + eps)


def softmax_correlation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Return Pearson's coefficient of two softmaxes along `dim`: logits [N, C] -> [N] (dim 1) or [C] (dim 0).

    0 where one of them is constant.
    """
    a, b = _centred(student, dim), _centred(teacher, dim)
    return cosine_similarity(a, b, dim)


def _centred(logits: Tensor, dim: int) -> Tensor:
    """Softmax less its mean along `dim`, as a sum: 1 for the class with more than half of a row (if any), the rest.

    Near 1, float32 does not resolve how a class that is certain in every row differs between the rows.
    """
    probabilities = F.softmax(logits, dim=-1)
    corner = (probabilities > 0.5).to(logits.dtype)
    others = (1 - corner) * probabilities
    rest = others - corner * others.sum(dim=-1, keepdim=True)
    return (corner - corner.mean(dim=dim, keepdim=True)) + (rest - rest.mean(dim=dim, keepdim=True))
