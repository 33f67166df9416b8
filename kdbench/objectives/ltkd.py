"""LTKD (Kim 2025, arXiv:2506.18496): distillation from a teacher that is biased to frequent classes.

The KL divergence is divided into a part across groups of classes and a part within them.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.class_groups import groups_by_frequency
from kdbench.functional.divergences import kl
from kdbench.utils.validation import check_at_least, check_non_negative, check_positive


def ltkd_loss(
    student: Tensor,
    teacher: Tensor,
    group: Tensor,
    groups: int = 3,
    cross: float = 1.0,
    within: float = 1.0,
    temperature: float = 4.0,
) -> Tensor:
    """Return T^2 * (cross * KL across groups + within * mean KL inside the groups), averaged over rows.

    Across groups, the teacher's group masses are divided by their means over the batch and normalised
    again.
    Inside, every group has the weight 1 / groups instead of the teacher's mass on it.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        group: Group of each class, int64 [C]; every group of range(groups) has a class.
        groups: Number of groups.
        cross: Weight of the KL divergence across groups.
        within: Weight of the KL divergence inside the groups.
        temperature: T, which divides the logits of both sides.

    Returns:
        A scalar in nats.
    """
    log_masses_q, log_q = decouple_groups(student / temperature, group, groups)
    log_masses_p, log_p = decouple_groups(teacher / temperature, group, groups)
    log_mean = log_masses_p.logsumexp(dim=0) - math.log(len(teacher))
    across = kl(F.log_softmax(log_masses_p - log_mean, dim=-1), log_masses_q)
    return temperature**2 * (cross * across + within * kl(log_p, log_q) / groups).mean()


def decouple_groups(logits: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the log-masses of the groups and the log-probabilities of the classes within their own group.

    With P and p from one side and Q and q from the other, KL(p||q) of whole rows is KL(P||Q) plus the sum
    over groups of P_g times the KL within g.

    Args:
        logits: Logits [N, C].
        group: Group of each class, int64 [C]; every group of range(groups) has a class.
        groups: Number of groups.

    Returns:
        Log-masses [N, groups] and log-probabilities [N, C].
    """
    outside = group != torch.arange(groups, device=group.device)[:, None]
    tops = logits.detach()[:, None].masked_fill(outside, -torch.inf).amax(dim=-1)
    # Shift each group to a maximum of 0: a small group's logits may be far below the row's largest.
    logits = logits - tops[:, group]
    log_sums = logits[:, None].masked_fill(outside, -torch.inf).logsumexp(dim=-1)
    tops = tops - tops.amax(dim=-1, keepdim=True)
    return F.log_softmax(tops + log_sums, dim=-1), logits - log_sums[:, group]


class LTKD(Objective):
    """`ltkd_loss` as an objective, with groups (head, medium, tail) by class frequency in the training set.

    Args:
        groups: Number of groups, of equally many classes; fewer where there are fewer classes.
        cross: Weight of the KL divergence across groups.
        within: Weight of the KL divergence inside the groups.
        temperature: T, which divides the logits of both sides.
        thresholds: Falling class counts that separate the groups, one fewer than groups (100 and 20 in the
            long-tailed literature). A group without classes is dropped. None divides the classes equally.

    Raises:
        ValueError: If `temperature` is not positive and finite, a weight is negative or not finite, `groups`
            is below 1, or `thresholds` do not fall or do not fit `groups`.
    """

    paper = Paper("Distilling Balanced Knowledge from a Biased Teacher", 2025, "2506.18496")
    formula = "T^2 (cross KL(P~_G||Q_G) + within mean_G KL(p|G||q|G)), P~_G ~ P_G / mean over rows of P_G"
    defaults_from = (
        "kdbench: head, medium and tail as in the abstract; the paper's weights and temperature were not "
        "found"
    )
    disagreements = (
        "This is a reimplementation from the abstract: no official code was found, and both weights are "
        "parameters.",
        "Equal weights within the groups are 1 / groups here, so that they sum to 1 as the teacher's masses "
        "do.",
        "On balanced data the groups have no meaning; they follow the order of the classes.",
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
        check_positive("LTKD", temperature=temperature)
        check_non_negative("LTKD", cross=cross, within=within)
        check_at_least("LTKD", 1, groups=groups)
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
        """Sort the classes into groups by their number of training samples."""
        counts = torch.bincount(dataset_info.labels[dataset_info.trained], minlength=dataset_info.num_classes)
        group_of_class = groups_by_frequency(counts, self.groups, self.thresholds)
        non_empty, group = torch.unique(group_of_class, return_inverse=True)
        self.groups = len(non_empty)
        self.register_buffer("group", group)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `ltkd_loss` of the logits: a scalar in nats."""
        weights = self.cross, self.within
        return ltkd_loss(student.logits, teacher.logits, self.group, self.groups, *weights, self.temperature)
