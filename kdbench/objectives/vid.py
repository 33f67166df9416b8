"""VID, variational information distillation (Ahn et al. 2019, arXiv:1904.05835)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller
from kdbench.utils.validation import check_between

SMALLEST_VARIANCE = 1e-5
"""Lower bound of every variance."""


def vid_loss(predicted: Sequence[Tensor], teacher: Sequence[Tensor], variances: Sequence[Tensor]) -> Tensor:
    """Return the mean of 0.5 * ((mu - t)^2 / v + log v), summed over stages.

    The mean is over rows, channels and positions.

    Args:
        predicted: One map mu [N, C, H, W] per stage, with the shape of the teacher's.
        teacher: The teacher's maps t, in the same order.
        variances: One positive tensor v [C] per stage.

    Returns:
        A scalar in nats, without the constant of the normal density; it can be negative.

    Raises:
        ValueError: If the lists differ in length.
    """
    stages = zip(predicted, teacher, variances, strict=True)
    return torch.stack([_negative_log_likelihood(*stage) for stage in stages]).sum()


def _negative_log_likelihood(mean: Tensor, value: Tensor, variance: Tensor) -> Tensor:
    per_channel = (mean - value).square().mean(dim=(0, 2, 3))
    return 0.5 * (per_channel / variance + variance.log()).mean()


def _regressor(inputs: int, outputs: int) -> nn.Sequential:
    widths = (inputs, outputs, outputs, outputs)
    first, second, third = (nn.Conv2d(i, o, 1, bias=False) for i, o in pairwise(widths))
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), third)


class VID(Objective):
    """`vid_loss` over all stages, with a regressor of three 1x1 convolutions and learned variances for each.

    Args:
        initial_variance: Variance of every channel at the start; during training it is softplus(rho) + 1e-5.
        fixed_variance: Do not learn the variances, as in mdistiller.

    Raises:
        ValueError: If `initial_variance` is not finite and above 1e-5.
    """

    paper = Paper("Variational Information Distillation for Knowledge Transfer", 2019, "1904.05835")
    formula = "sum over stages of mean of 0.5 ((mu(F_s) - F_t)^2 / v + log v), v = softplus(rho) + 1e-5"
    defaults_from = "RepDistiller: all stages, variances start at 5"
    high_cost = "three 1x1 convolutions on every stage"
    disagreements = (
        "mdistiller does not pass rho to the optimiser, so every variance stays at 5. The paper, "
        "RepDistiller and kdbench learn it; fixed_variance=True restores mdistiller.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage*",)

    def __init__(self, initial_variance: float = 5.0, fixed_variance: bool = False) -> None:
        super().__init__()
        check_between("VID", SMALLEST_VARIANCE, math.inf, closed="neither", initial_variance=initial_variance)
        self.initial_variance, self.fixed_variance = initial_variance, fixed_variance

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create a regressor and rho for each stage."""
        ours = [feature.shape[1] for feature in probes.student.select_features(self.student_features)]
        theirs = [feature.shape[1] for feature in probes.teacher.select_features(self.teacher_features)]
        self.regressors = nn.ModuleList(map(_regressor, ours, theirs))
        above = self.initial_variance - SMALLEST_VARIANCE
        rho = above + math.log(-math.expm1(-above))  # the inverse of softplus
        requires_grad = not self.fixed_variance
        self.rho = nn.ParameterList(
            nn.Parameter(torch.full((width,), rho), requires_grad) for width in theirs
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `vid_loss` of the stages, the larger map of each averaged down first: a scalar in nats."""
        features = zip(
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
            strict=True,
        )
        ours, theirs = zip(*(pool_to_smaller(s, t) for s, t in features), strict=True)
        predicted = [regressor(feature) for regressor, feature in zip(self.regressors, ours, strict=True)]
        return vid_loss(predicted, theirs, [F.softplus(rho) + SMALLEST_VARIANCE for rho in self.rho])
