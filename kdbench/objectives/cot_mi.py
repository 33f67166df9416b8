"""Chen et al. 2024, "Learning to Maximize Mutual Information for Chain-of-Thought Distillation", arXiv:2403.03348."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs

Pool = Literal["max", "mean"]
Form = Literal["official", "normalised_ce", "kl"]
Detach = Literal["label", "none"]

SLICE = 4096
"""Tokens of the vocabulary that are looked at at once."""


def cot_mi_loss(
    predict_logits: Tensor,
    explain_logits: Tensor,
    predict_mask: Tensor | None = None,
    explain_mask: Tensor | None = None,
    pool: Pool = "max",
    form: Form = "official",
    detach: Detach = "label",
) -> Tensor:
    """How far the words of the rationale are from those of the label. Returns a scalar in nats, a mean over samples.

    predict_logits: [B, Lp, V]; explain_logits: [B, Le, V]; masks: bool [B, L], True where a position counts (all of
    them where there is none, padding too, as in the official code), at least one in a row.
    pool: over positions, of the probability of each word. form: `official`, a cross-entropy with the pooled
    probabilities as target and, a second softmax over them, as logits; `normalised_ce` and `kl` between the pooled
    probabilities scaled to 1. detach: `label`, the label's side has no gradient.
    """
    if detach == "label":
        predict_logits = predict_logits.detach()
    log_p = pooled_log_probabilities(predict_logits, predict_mask, pool)
    log_e = pooled_log_probabilities(explain_logits, explain_mask, pool)
    if form == "official":
        return -(log_p.exp() * F.log_softmax(log_e.exp(), dim=-1)).sum(dim=-1).mean()
    log_p, log_e = F.log_softmax(log_p, dim=-1), F.log_softmax(log_e, dim=-1)
    divergence = F.kl_div(log_e, log_p, reduction="none", log_target=True).sum(dim=-1)
    if form == "kl":
        return divergence.mean()
    return (divergence - (log_p.exp() * log_p).sum(dim=-1)).mean()


def pooled_log_probabilities(
    logits: Tensor, mask: Tensor | None = None, pool: Pool = "max", size: int = SLICE
) -> Tensor:
    """ln of the largest, or of the mean, probability of each word over the positions: [B, V] from logits [B, L, V].

    mask: bool [B, L]. The vocabulary is looked at in slices of `size`, and no softmax of [B, L, V] is kept or made.
    """
    mask = torch.ones_like(logits[..., 0], dtype=torch.bool) if mask is None else mask
    pooled: Tensor = _PooledLogProbabilities.apply(logits, mask, pool, size)
    return pooled


class _PooledLogProbabilities(torch.autograd.Function):
    """Keeps the logits, which are there anyway, what normalises them [B, L], and the result [B, V]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, pool: Pool, size: int) -> Tensor:
        norm = torch.full_like(logits[..., 0], -math.inf)
        for words in _slices(logits, size):
            norm = torch.logaddexp(norm, logits[..., words].logsumexp(dim=-1))
        norm = norm.masked_fill(~mask, math.inf)  # a probability of 0 at what does not count
        parts = (logits[..., words] for words in _slices(logits, size))
        pooled = torch.cat([_pool(part, norm, mask, pool) for part in parts], dim=-1)
        ctx.save_for_backward(logits, mask, norm, pooled)
        ctx.pool, ctx.size = pool, size
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, mask, norm, pooled = ctx.saved_tensors
        result, weight = torch.empty_like(logits), torch.zeros_like(norm)
        for words in _slices(
            logits, ctx.size
        ):  # the gradient that comes to each position's log-probabilities
            share = _share(logits[..., words], norm, mask, pooled[..., words], ctx.pool)
            result[..., words] = share * gradient[:, None, words]
            weight += result[..., words].sum(dim=-1)
        for words in _slices(logits, ctx.size):
            result[..., words] -= weight[..., None] * (logits[..., words] - norm[..., None]).exp()
        return result, None, None, None


def _slices(logits: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, logits.shape[-1], size)]


def _pool(part: Tensor, norm: Tensor, mask: Tensor, pool: Pool) -> Tensor:
    log = part - norm[..., None]
    if pool == "max":
        return log.amax(dim=1)
    return log.logsumexp(dim=1) - mask.sum(dim=1, keepdim=True).to(log.dtype).log()


def _share(part: Tensor, norm: Tensor, mask: Tensor, pooled: Tensor, pool: Pool) -> Tensor:
    """d pooled [B, v] / d ln probability [B, L, v]: of a maximum the first position that has it."""
    log = part - norm[..., None]
    if pool == "max":
        return torch.zeros_like(log).scatter_(1, log.argmax(dim=1, keepdim=True), 1.0)
    count = mask.sum(dim=1)[:, None, None].to(log.dtype)
    return (log - pooled[:, None] - count.log()).exp()


class CotMI(Objective):
    """The mutual-information term between the two tasks of a student that predicts and explains."""

    paper = Paper(
        "Learning to Maximize Mutual Information for Chain-of-Thought Distillation", 2024, "2403.03348"
    )
    formula = (
        "-mean_b sum_v p_bv ln softmax_v(e_b), p and e: largest probability of word v in label and rationale"
    )
    needs = ("texts",)
    tasks = ("rationale",)
    views = ("predict", "explain")
    needs_teacher = False
    defaults_from = "the official code"
    disagreements = (
        "the paper speaks of features of the two tasks and a cross-entropy of distributions; the code pools "
        "probabilities of words, which do not sum to 1, and feeds them as logits into a second softmax "
        "(form=normalised_ce or kl: once, and scaled to 1)",
        "with a vocabulary of V words the official value is S ln V - <p, e> + O(S^2 / V), S the sum of p: its gradient "
        "is nearly -p",
        "the code pools over padding, so that the value depends on what else is in the batch (mask_padding=true)",
        "labels pull rationales and never the other way round (detach=none)",
        "the switch --CoT_Distill False of the official code switches nothing off; here loss=dss has no such term",
    )

    def __init__(
        self,
        pool: Pool = "max",
        form: Form = "official",
        detach: Detach = "label",
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        for key, value, possible in (
            ("pool", pool, ("max", "mean")),
            ("form", form, ("official", "normalised_ce", "kl")),
            ("detach", detach, ("label", "none")),
        ):
            if value not in possible:
                raise ValueError(f"{key}={value}; possible: {', '.join(possible)}")
        self.pool, self.form, self.detach, self.mask_padding = pool, form, detach, mask_padding

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The term of the two answers, in nats."""
        predict, explain = (student.parts[view].logits for view in self.views)
        masks = (
            (batch.texts["predict"].valid, batch.texts["explain"].valid)
            if self.mask_padding
            else (None, None)
        )
        return cot_mi_loss(predict, explain, masks[0], masks[1], self.pool, self.form, self.detach)
