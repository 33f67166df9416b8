"""LTKD, Kim 2025, arXiv:2506.18496: KL across and within groups of classes, without the teacher's bias to the head."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.class_groups import groups_by_frequency
from kdbench.functional.divergences import kl


def ltkd_loss(
    student: Tensor,
    teacher: Tensor,
    group: Tensor,
    groups: int = 3,
    cross: float = 1.0,
    within: float = 1.0,
    temperature: float = 4.0,
) -> Tensor:
    """T^2 * (cross * KL across groups + within * mean over groups of the KL inside), averaged over rows.

    student, teacher: logits [N, C]; group: int64 [C], the group of each class, every one of range(groups) used.
    Returns a scalar in nats. Across: the teacher's group masses are divided by their means over the batch and
    normalised again. Inside: every group weighs 1 / groups instead of the teacher's mass of it.
    """
    log_masses_q, log_q = decouple_groups(student / temperature, group, groups)
    log_masses_p, log_p = decouple_groups(teacher / temperature, group, groups)
    log_mean = log_masses_p.logsumexp(dim=0) - math.log(len(teacher))
    across = kl(F.log_softmax(log_masses_p - log_mean, dim=-1), log_masses_q)
    return temperature**2 * (cross * across + within * kl(log_p, log_q) / groups).mean()


def decouple_groups(logits: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Log-masses of the groups [N, groups] and log-probabilities of the classes within their own group [N, C].

    logits: [N, C]; group: int64 [C], every one of range(groups) used. With P and p of one side, Q and q of the
    other, KL(p||q) = KL(P||Q) + sum over groups of P_g times the KL within g.
    """
    outside = group != torch.arange(groups, device=group.device)[:, None]
    tops = logits.detach()[:, None].masked_fill(outside, -torch.inf).amax(dim=-1)
    # Near 0 before any sum: a small group's logits may be far below the row's largest.
    logits = logits - tops[:, group]
    log_sums = logits[:, None].masked_fill(outside, -torch.inf).logsumexp(dim=-1)
    tops = tops - tops.amax(dim=-1, keepdim=True)
    return F.log_softmax(tops + log_sums, dim=-1), logits - log_sums[:, group]


class LTKD(Objective):
    """`ltkd_loss` as an objective, with groups (head, medium, tail) by how often a class is trained on.

    groups: how many, of equally many classes; fewer where there are fewer classes.
    thresholds: counts that separate the groups instead, one less than there are groups (100, 20 in the long-tailed
    literature); a group without classes is dropped.
    Raises ValueError unless 0 < temperature < inf, 0 <= cross, within < inf, groups >= 1, and thresholds fall.
    """

    paper = Paper("Distilling Balanced Knowledge from a Biased Teacher", 2025, "2506.18496")
    formula = "T^2 (cross KL(P~_G||Q_G) + within mean_G KL(p|G||q|G)), P~_G ~ P_G / mean over rows of P_G"
    defaults_from = (
        "ours: head, medium and tail as in the abstract; the paper's weights and temperature were not found"
    )
    disagreements = (
        "a reimplementation from the abstract: no official code was found, and both weights are parameters",
        "equal weights within the groups are 1 / groups here, so that they sum to 1 as the teacher's masses do",
        "on balanced data the groups mean nothing: they follow the order of the classes",
    )
    needs = ("logits", "class frequencies")
    couples_rows = True
    group: Tensor

    def __init__(
        self,
        groups: int = 3,
        cross: float = 1.0,
        within: float = 1.0,
        temperature: float = 4.0,
        thresholds: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"LTKD: temperature must be positive and finite, got {temperature}")
        for name, value in (("cross", cross), ("within", within)):
            if not 0 <= value < math.inf:
                raise ValueError(f"LTKD: {name} must be finite and not negative, got {value}")
        if groups < 1:
            raise ValueError(f"LTKD: groups must be at least 1, got {groups}")
        falling = thresholds is None or list(thresholds) == sorted(set(thresholds), reverse=True)
        if thresholds is not None and not (falling and len(thresholds) == groups - 1):
            raise ValueError(
                f"LTKD: thresholds must be {groups - 1} falling counts for {groups} groups, got {list(thresholds)}"
            )
        self.groups, self.thresholds = groups, thresholds
        self.cross, self.within, self.temperature = cross, within, temperature

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Sort the classes into groups by how many images of each are trained on."""
        counts = torch.bincount(dataset_info.labels[dataset_info.trained], minlength=dataset_info.num_classes)
        found = groups_by_frequency(counts, self.groups, self.thresholds)
        used, group = torch.unique(found, return_inverse=True)
        self.groups = len(used)
        self.register_buffer("group", group)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`ltkd_loss` of the logits: a scalar in nats."""
        weights = self.cross, self.within
        return ltkd_loss(student.logits, teacher.logits, self.group, self.groups, *weights, self.temperature)
