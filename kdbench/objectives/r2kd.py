"""R2KD, Kim et al. 2024, arXiv:2311.13934: T^2 (1 - Pearson of rows + 1 - Pearson of columns), 1 - Spearman."""

import copy
import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import cosine_similarity, soft_ranks, softmax_correlation

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
    """value_weight * `value_distance` + rank_weight * `rank_distance`.

    student, teacher: logits [N, C], the teacher's perhaps mixed with those of its pruned copy. Dimensionless scalar.
    """
    value = value_distance(student, teacher, temperature, centred)
    return value_weight * value + rank_weight * rank_distance(student, teacher, rank, tau)


def value_distance(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, centred: bool = True
) -> Tensor:
    """T^2 * (2 - the rows' mean correlation - the columns' mean correlation) of the softened probabilities.

    student, teacher: logits [N, C]. Dimensionless scalar. centred: Pearson's coefficient, 0 along a constant row or
    column (and for N = 1 along columns); else the published absolute cosine without centring.
    """
    student, teacher = student / temperature, teacher / temperature
    rows, columns = (_alike(student, teacher, centred, dim).mean() for dim in (1, 0))
    return temperature**2 * (2 - rows - columns)


def _alike(student: Tensor, teacher: Tensor, centred: bool, dim: int) -> Tensor:
    if centred:
        return softmax_correlation(student, teacher, dim)
    return cosine_similarity(F.softmax(student, dim=-1), F.softmax(teacher, dim=-1), dim).abs()


def rank_distance(student: Tensor, teacher: Tensor, rank: str = "soft", tau: float = 1.0) -> Tensor:
    """One minus the correlation of the classes' ranks, averaged over rows.

    student, teacher: logits [N, C]. Dimensionless scalar. rank: `soft` ranks (width tau, in logits) follow the
    logits smoothly; `hard` are the published ones, whose gradient is zero.
    """
    classes = student.shape[-1]
    # the published ranks sum to 1, which matters beside the 1e-8 in the denominator
    share = 2 / (classes * (classes + 1))
    a, b = (share * (soft_ranks(z, tau) if rank == "soft" else _hard_ranks(z)) for z in (student, teacher))
    return 1 - cosine_similarity(a, b).mean()


def _hard_ranks(logits: Tensor) -> Tensor:
    """0 to C - 1, less their mean: [N, C]. Equal logits are ranked in their order."""
    ranks = logits.detach().argsort(dim=-1, stable=True).argsort(dim=-1).to(logits.dtype)
    return ranks - (logits.shape[-1] - 1) / 2


def pruned(network: nn.Module, share: float, scope: str = "layer") -> nn.Module:
    """A frozen copy in eval mode with the smallest weights of its convolutions and linear layers set to zero.

    share: of the weights, by magnitude; scope: `layer`, in each layer by itself, or `global`, in all together.
    ValueError for a network that has no such layer.
    """
    network = copy.deepcopy(network).requires_grad_(False).eval()
    weights = [module.weight for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    if not weights:
        raise ValueError(f"R2KD: {type(network).__name__} has no convolution or linear layer to prune")
    for together in [weights] if scope == "global" else [[weight] for weight in weights]:
        flat = torch.cat([weight.flatten() for weight in together])
        flat[flat.abs().topk(round(share * len(flat)), largest=False).indices] = 0
        kept = torch.split(flat, [weight.numel() for weight in together])
        for weight, values in zip(together, kept, strict=True):
            weight.copy_(values.view_as(weight))
    return network


class R2KD(Objective):
    """`r2kd_loss` as an objective, whose teacher is a mixture with its own pruned copy.

    centred: Pearson's coefficient of the values; False: the published absolute cosine without centring.
    teacher_weight: the share of the teacher's logits; the rest is the pruned copy's, which answers the batch itself
    (in float32). 1 makes no copy. The copy is made again from the teacher wherever a run starts or resumes.
    Raises ValueError unless 0 < temperature, tau < inf, 0 <= value_weight, rank_weight < inf,
    0 <= teacher_weight <= 1, 0 <= prune < 1, and for unknown words.
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
        "official code (Seonghak35/R2KD, mdistiller/engine/cfg.py), which its files do not change; tau: ours"
    )
    disagreements = (
        "the published ranks come from argsort and have no gradient, so that the rank term trains nothing; here they "
        "are soft (rank=hard restores them)",
        "the published correlation of the values is an absolute cosine without centring; here it is Pearson's "
        "(centred=False restores it)",
        "the official code prunes each layer by itself, which is the default here (scope=global: all together)",
        "the published runs add both terms on an augmented copy of the batch (mixup, cutmix, cutout, AutoAugment or "
        "cutmix-pick); here there is one copy",
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
        for name, value in (("temperature", temperature), ("tau", tau)):
            if not 0 < value < math.inf:
                raise ValueError(f"R2KD: {name} must be positive and finite, got {value}")
        for name, value in (("value_weight", value_weight), ("rank_weight", rank_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"R2KD: {name} must be finite and not negative, got {value}")
        if not 0 <= teacher_weight <= 1:
            raise ValueError(f"R2KD: teacher_weight must be in [0, 1], got {teacher_weight}")
        if not 0 <= prune < 1:
            raise ValueError(f"R2KD: prune must be in [0, 1), got {prune}")
        for name, word, possible in (("rank", rank, RANKS), ("scope", scope, SCOPES)):
            if word not in possible:
                raise ValueError(f"R2KD: {name} must be one of {', '.join(possible)}, got {word!r}")
        self.options = value_weight, rank_weight, temperature, centred, rank, tau
        self.teacher_weight, self.prune, self.scope = teacher_weight, prune, scope
        self.needs = type(self).needs if teacher_weight < 1 else ("logits",)
        # In a tuple it is no submodule: not trained, not saved, and never out of eval mode.
        self._pruned: tuple[nn.Module, ...] = ()

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Prune a copy of the teacher, where it has a say."""
        if self.teacher_weight < 1:
            self._pruned = (pruned(teacher, self.prune, self.scope),)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`r2kd_loss` of the student's logits and the mixture of the teacher's: a dimensionless scalar."""
        mixed = teacher.logits
        for network in self._pruned:
            with torch.no_grad():
                other = network(batch.inputs.to(next(network.parameters()).dtype)).to(mixed.dtype)
            mixed = self.teacher_weight * mixed + (1 - self.teacher_weight) * other
        return r2kd_loss(student.logits, mixed, *self.options)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Take the pruned copy along to another device."""
        for network in self._pruned:
            network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved
