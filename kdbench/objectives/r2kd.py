"""R2KD (Kim et al. 2024, arXiv:2311.13934): correlations of values and ranks, with a pruned teacher."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import cosine_similarity, soft_ranks, softmax_correlation
from kdbench.utils.validation import check_choice, check_fraction, check_non_negative, check_positive

RANKS, SCOPES = ("soft", "hard"), ("layer", "global")


def r2kd_loss(
    student: Tensor,
    teacher: Tensor,
    value_weight: float = 2.0,
    rank_weight: float = 2.0,
    temperature: float = 4.0,
    centred: bool = True,
    rank: str = "soft",
    tau: float = 1.0,
) -> Tensor:
    """Return value_weight * `value_distance` + rank_weight * `rank_distance`.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C], possibly mixed with those of the pruned copy.
        value_weight: Weight of the value distance.
        rank_weight: Weight of the rank distance.
        temperature: T of the value distance.
        centred: Use Pearson's coefficient for the values; see `value_distance`.
        rank: `soft` or `hard` ranks; see `rank_distance`.
        tau: Width of a soft rank, in logits.

    Returns:
        A dimensionless scalar.
    """
    value = value_distance(student, teacher, temperature, centred)
    return value_weight * value + rank_weight * rank_distance(student, teacher, rank, tau)


def value_distance(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, centred: bool = True
) -> Tensor:
    """Return T^2 * (2 - mean row correlation - mean column correlation) of softened probabilities.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        temperature: T, which divides the logits of both sides.
        centred: Use Pearson's coefficient, which is 0 along a constant row or column (and along columns for N
            = 1). False uses the published absolute cosine without centring.

    Returns:
        A dimensionless scalar.
    """
    student, teacher = student / temperature, teacher / temperature
    rows, columns = (_correlation(student, teacher, centred, dim).mean() for dim in (1, 0))
    return temperature**2 * (2 - rows - columns)


def _correlation(student: Tensor, teacher: Tensor, centred: bool, dim: int) -> Tensor:
    if centred:
        return softmax_correlation(student, teacher, dim)
    return cosine_similarity(F.softmax(student, dim=-1), F.softmax(teacher, dim=-1), dim).abs()


def rank_distance(student: Tensor, teacher: Tensor, rank: str = "soft", tau: float = 1.0) -> Tensor:
    """Return one minus the correlation of the ranks of the classes, averaged over rows.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        rank: `soft` ranks are differentiable; `hard` ranks are the published ones, with zero gradient.
        tau: Width of a soft rank, in logits.

    Returns:
        A dimensionless scalar.
    """
    classes = student.shape[-1]
    # The published ranks sum to 1; their scale matters because of the 1e-8 in the denominator.
    share = 2 / (classes * (classes + 1))
    a, b = (share * (soft_ranks(z, tau) if rank == "soft" else _hard_ranks(z)) for z in (student, teacher))
    return 1 - cosine_similarity(a, b).mean()


def _hard_ranks(logits: Tensor) -> Tensor:
    """Return ranks 0 to C - 1 less their mean: [N, C]. Equal logits are ranked in index order."""
    ranks = logits.detach().argsort(dim=-1, stable=True).argsort(dim=-1).to(logits.dtype)
    return ranks - (logits.shape[-1] - 1) / 2


def prune_copy(network: nn.Module, share: float, scope: str = "layer") -> nn.Module:
    """Return a frozen copy in eval mode whose smallest convolution and linear weights are zero.

    Args:
        network: The network to copy.
        share: Fraction of the weights that is pruned, by magnitude.
        scope: `layer` prunes each layer separately, `global` all weights together.

    Raises:
        ValueError: If the network has no convolution or linear layer.
    """
    network = copy.deepcopy(network).requires_grad_(False).eval()
    weights = [module.weight for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    if not weights:
        raise ValueError(f"R2KD: {type(network).__name__} has no convolution or linear layer to prune")
    for group in [weights] if scope == "global" else [[weight] for weight in weights]:
        flat = torch.cat([weight.flatten() for weight in group])
        flat[flat.abs().topk(round(share * len(flat)), largest=False).indices] = 0
        parts = torch.split(flat, [weight.numel() for weight in group])
        for weight, values in zip(group, parts, strict=True):
            weight.copy_(values.view_as(weight))
    return network


class R2KD(Objective):
    """`r2kd_loss` as an objective, whose teacher is mixed with a pruned copy of itself.

    Args:
        value_weight: Weight of the value distance.
        rank_weight: Weight of the rank distance.
        temperature: T of the value distance.
        centred: Use Pearson's coefficient for the values; False is the published absolute cosine.
        rank: `soft`, or `hard` as published.
        tau: Width of a soft rank, in logits.
        teacher_weight: Share of the teacher's logits; the rest comes from the pruned copy, which processes
            each batch in float32. 1 makes no copy. The copy is made from the teacher whenever a run starts or
            resumes.
        prune: Fraction of the weights that is pruned.
        scope: `layer` prunes each layer separately, `global` all weights together.

    Raises:
        ValueError: If `temperature` or `tau` is not positive and finite, a loss weight is negative or not
            finite, `teacher_weight` is not in [0, 1], `prune` is not in [0, 1), or a choice is unknown.
    """

    paper = Paper(
        "Robustness-Reinforced Knowledge Distillation with Correlation Distance and Network Pruning",
        2024,
        "2311.13934",
    )
    formula = (
        "w_v T^2 (2 - mean_i rho(q_i, p_i) - mean_k rho(q_k, p_k)) + w_r (1 - mean_i Spearman), rho Pearson"
    )
    defaults_from = (
        "the official code (Seonghak35/R2KD, mdistiller/engine/cfg.py), whose configuration files do not "
        "change them; tau: kdbench"
    )
    high_cost = "a second, pruned teacher sees each batch; soft ranks as in cmkd"
    disagreements = (
        "The published ranks come from argsort and have no gradient, so the rank term trains nothing; here "
        "they are soft (rank=hard restores them).",
        "The published correlation of the values is an absolute cosine without centring; here it is "
        "Pearson's (centred=False restores it).",
        "The official code prunes each layer separately, which is the default here (scope=global: all "
        "together).",
        "The published runs add both terms on an augmented copy of the batch (mixup, cutmix, cutout, "
        "AutoAugment or cutmix-pick); here there is one copy.",
    )
    needs: tuple[str, ...] = ("logits", "inputs", "teacher weights")
    couples_rows = True

    def __init__(
        self,
        value_weight: float = 2.0,
        rank_weight: float = 2.0,
        temperature: float = 4.0,
        centred: bool = True,
        rank: str = "soft",
        tau: float = 1.0,
        teacher_weight: float = 0.7,
        prune: float = 0.1,
        scope: str = "layer",
    ) -> None:
        super().__init__()
        check_positive("R2KD", temperature=temperature, tau=tau)
        check_non_negative("R2KD", value_weight=value_weight, rank_weight=rank_weight)
        check_fraction("R2KD", teacher_weight=teacher_weight)
        check_fraction("R2KD", closed="left", prune=prune)
        check_choice("R2KD", RANKS, rank=rank)
        check_choice("R2KD", SCOPES, scope=scope)
        self.options = value_weight, rank_weight, temperature, centred, rank, tau
        self.teacher_weight, self.prune, self.scope = teacher_weight, prune, scope
        self.needs = type(self).needs if teacher_weight < 1 else ("logits",)
        # A tuple hides the copy from nn.Module: it is not trained, not saved, and stays in eval mode.
        self._pruned: tuple[nn.Module, ...] = ()

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Prune a copy of the teacher, unless the mixture does not use it."""
        if self.teacher_weight < 1:
            self._pruned = (prune_copy(teacher, self.prune, self.scope),)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `r2kd_loss` of the student's logits and the mixed teacher's: a dimensionless scalar."""
        mixed = teacher.logits
        for network in self._pruned:
            with torch.no_grad():
                other = network(batch.inputs.to(next(network.parameters()).dtype)).to(mixed.dtype)
            mixed = self.teacher_weight * mixed + (1 - self.teacher_weight) * other
        return r2kd_loss(student.logits, mixed, *self.options)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move the pruned copy to another device along with the module."""
        for network in self._pruned:
            network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved
