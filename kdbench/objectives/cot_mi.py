"""CoT-MI (Chen et al. 2024, arXiv:2403.03348): align the token distributions of labels and rationales."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.utils.validation import check_choice

Pool = Literal["max", "mean"]
Form = Literal["official", "normalised_ce", "kl"]
Detach = Literal["label", "none"]

SLICE = 4096
"""Number of vocabulary tokens that are processed at a time."""


def cot_mi_loss(
    predict_logits: Tensor,
    explain_logits: Tensor,
    predict_mask: Tensor | None = None,
    explain_mask: Tensor | None = None,
    pool: Pool = "max",
    form: Form = "official",
    detach: Detach = "label",
) -> Tensor:
    """Return the distance between the pooled token distributions of the label and of the rationale.

    Args:
        predict_logits: Logits of the label [B, Lp, V].
        explain_logits: Logits of the rationale [B, Le, V].
        predict_mask: bool [B, Lp], true for the positions to pool over, at least one in each row. None pools
            over all positions, padding included, as in the official code.
        explain_mask: bool [B, Le], likewise for the rationale.
        pool: How each token's probability is pooled over positions.
        form: `official` is a cross-entropy whose target is the pooled label probabilities and whose logits
            are the pooled rationale probabilities, which pass a second softmax. `normalised_ce` and `kl`
            compare the pooled probabilities after scaling them to a sum of 1.
        detach: `label` stops the gradient through the label's side; `none` lets it flow through both.

    Returns:
        A scalar in nats, averaged over samples.
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
    """Return the log of the pooled probability of each token over the positions.

    The vocabulary is processed in slices, so no softmax of shape [B, L, V] is materialised.

    Args:
        logits: Logits [B, L, V].
        mask: bool [B, L], true for the positions to pool over; None means all.
        pool: `max` or `mean` over positions.
        size: Tokens per slice.

    Returns:
        Log-probabilities [B, V]. They do not sum to 1 after exponentiation.
    """
    mask = torch.ones_like(logits[..., 0], dtype=torch.bool) if mask is None else mask
    pooled: Tensor = _PooledLogProbabilities.apply(logits, mask, pool, size)
    return pooled


class _PooledLogProbabilities(torch.autograd.Function):
    """Autograd function that saves the logits, their normaliser [B, L] and the result [B, V] only."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, pool: Pool, size: int) -> Tensor:
        norm = torch.full_like(logits[..., 0], -math.inf)
        for tokens in _slices(logits, size):
            norm = torch.logaddexp(norm, logits[..., tokens].logsumexp(dim=-1))
        norm = norm.masked_fill(~mask, math.inf)  # masked positions get probability 0
        parts = (logits[..., tokens] for tokens in _slices(logits, size))
        pooled = torch.cat([_pool(part, norm, mask, pool) for part in parts], dim=-1)
        ctx.save_for_backward(logits, mask, norm, pooled)
        ctx.pool, ctx.size = pool, size
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, mask, norm, pooled = ctx.saved_tensors
        result, weight = torch.empty_like(logits), torch.zeros_like(norm)
        # first the gradient of the log-probabilities, then that of the log-softmax
        for tokens in _slices(logits, ctx.size):
            share = _share(logits[..., tokens], norm, mask, pooled[..., tokens], ctx.pool)
            result[..., tokens] = share * gradient[:, None, tokens]
            weight += result[..., tokens].sum(dim=-1)
        for tokens in _slices(logits, ctx.size):
            result[..., tokens] -= weight[..., None] * (logits[..., tokens] - norm[..., None]).exp()
        return result, None, None, None


def _slices(logits: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, logits.shape[-1], size)]


def _pool(part: Tensor, norm: Tensor, mask: Tensor, pool: Pool) -> Tensor:
    log = part - norm[..., None]
    if pool == "max":
        return log.amax(dim=1)
    return log.logsumexp(dim=1) - mask.sum(dim=1, keepdim=True).to(log.dtype).log()


def _share(part: Tensor, norm: Tensor, mask: Tensor, pooled: Tensor, pool: Pool) -> Tensor:
    """Return d pooled [B, v] / d log-probability [B, L, v]; of a maximum, the first position."""
    log = part - norm[..., None]
    if pool == "max":
        return torch.zeros_like(log).scatter_(1, log.argmax(dim=1, keepdim=True), 1.0)
    count = mask.sum(dim=1)[:, None, None].to(log.dtype)
    return (log - pooled[:, None] - count.log()).exp()


class CotMI(Objective):
    """`cot_mi_loss` between the two views of a student that predicts labels and explains them.

    Args:
        pool: How each token's probability is pooled over positions.
        form: Which divergence is computed; see `cot_mi_loss`.
        detach: `label` stops the gradient through the label's side.
        mask_padding: Pool over valid tokens only. The official code pools over padding too.

    Raises:
        ValueError: If `pool`, `form` or `detach` is unknown.
    """

    paper = Paper(
        "Learning to Maximize Mutual Information for Chain-of-Thought Distillation", 2024, "2403.03348"
    )
    formula = (
        "-mean_b sum_v p_bv ln softmax_v(e_b), p and e: largest probability of token v in label and rationale"
    )
    needs = ("texts",)
    tasks = ("rationale",)
    views = ("predict", "explain")
    needs_teacher = False
    defaults_from = "the official code"
    disagreements = (
        "The paper describes features of the two tasks and a cross-entropy of distributions. The code pools "
        "token probabilities, which do not sum to 1, and feeds them as logits into a second softmax; "
        "form=normalised_ce and form=kl scale them to 1 and use one softmax.",
        "With a vocabulary of V tokens the official value is S ln V - <p, e> + O(S^2 / V), where S is the "
        "sum of p; its gradient is nearly -p.",
        "The code pools over padding, so the value depends on the other samples of the batch "
        "(mask_padding=true does not).",
        "Labels pull rationales but rationales do not pull labels (detach=none does both).",
        "The switch --CoT_Distill False of the official code switches nothing off; here loss=dss has no such"
        " term.",
    )

    def __init__(
        self,
        pool: Pool = "max",
        form: Form = "official",
        detach: Detach = "label",
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        check_choice("CotMI", ("max", "mean"), pool=pool)
        check_choice("CotMI", ("official", "normalised_ce", "kl"), form=form)
        check_choice("CotMI", ("label", "none"), detach=detach)
        self.pool, self.form, self.detach, self.mask_padding = pool, form, detach, mask_padding

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `cot_mi_loss` of the two views: a scalar in nats."""
        predict, explain = (student.parts[view].logits for view in self.views)
        masks = (
            (batch.texts["predict"].valid, batch.texts["explain"].valid)
            if self.mask_padding
            else (None, None)
        )
        return cot_mi_loss(predict, explain, masks[0], masks[1], self.pool, self.form, self.detach)
