"""VID, Ahn et al. 2019, arXiv:1904.05835: -log N(F_t; mu(F_s), v), mean over elements, v learned per channel."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller

SMALLEST = 1e-5
"""What every variance has at least."""


def vid_loss(predicted: Sequence[Tensor], teacher: Sequence[Tensor], variances: Sequence[Tensor]) -> Tensor:
    """The mean of 0.5 * ((mu - t)^2 / v + log v) over rows, channels and positions, summed over stages.

    predicted, teacher: one map [N, C, H, W] of each side per stage, of one shape; variances: [C] per stage,
    positive. Returns a scalar in nats, without the constant of the normal density; it can be negative.
    ValueError where the lists differ in length.
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
    """`vid_loss` over all stages, with a regressor of three 1x1 convolutions and variances for each.

    initial_variance: v of every channel at the start, softplus(rho) + 1e-5 afterwards.
    fixed_variance: never learn it, as mdistiller.
    Raises ValueError unless 1e-5 < initial_variance < inf.
    """

    paper = Paper("Variational Information Distillation for Knowledge Transfer", 2019, "1904.05835")
    formula = "sum over stages of mean of 0.5 ((mu(F_s) - F_t)^2 / v + log v), v = softplus(rho) + 1e-5"
    defaults_from = "RepDistiller: all stages, variances from 5"
    disagreements = (
        "mdistiller keeps rho out of the optimiser, so that every variance stays at 5; the paper, RepDistiller "
        "and this file learn it. fixed_variance=True is mdistiller's.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage*",)

    def __init__(self, initial_variance: float = 5.0, fixed_variance: bool = False) -> None:
        super().__init__()
        if not SMALLEST < initial_variance < math.inf:
            raise ValueError(
                f"VID: initial_variance must be finite and above {SMALLEST}, got {initial_variance}"
            )
        self.initial_variance, self.fixed_variance = initial_variance, fixed_variance

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make a regressor and rho for each stage."""
        ours = [feature.shape[1] for feature in probes.student.select_features(self.student_features)]
        theirs = [feature.shape[1] for feature in probes.teacher.select_features(self.teacher_features)]
        self.regressors = nn.ModuleList(map(_regressor, ours, theirs))
        above = self.initial_variance - SMALLEST
        rho = above + math.log(-math.expm1(-above))  # the inverse of softplus
        learned = not self.fixed_variance
        self.rho = nn.ParameterList(nn.Parameter(torch.full((width,), rho), learned) for width in theirs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`vid_loss` of the stages, the larger map of each averaged down first: a scalar in nats."""
        features = zip(
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
            strict=True,
        )
        ours, theirs = zip(*(pool_to_smaller(s, t) for s, t in features), strict=True)
        predicted = [regressor(feature) for regressor, feature in zip(self.regressors, ours, strict=True)]
        return vid_loss(predicted, theirs, [F.softplus(rho) + SMALLEST for rho in self.rho])
