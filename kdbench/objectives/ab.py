"""AB, Heo et al. 2019, arXiv:1811.03233: ReLU(1 - sign(t) s)^2 before the ReLU, where the teacher's boundary is."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import hint_regressor, sum_by_depth

SCALE = 3 / 1000
"""What the authors multiply the sums over whole maps by."""


def ab_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The sum over stages of 3/1000 * 2^(l - n + 1) * sum(ReLU(1 - sign * s)^2) / N.

    student, teacher: n maps [N, C, H, W] each before their ReLU, the deepest (weight 1) last; the student's
    are connected, so that shapes agree stage by stage. sign is +1 where the teacher's ReLU is open (t > 0),
    else -1. Returns a scalar in squared units of the maps, summed over channels and positions, averaged over
    rows. ValueError where one side has more stages.
    """
    return SCALE * sum_by_depth([_violations(s, t) for s, t in zip(student, teacher, strict=True)])


def _violations(student: Tensor, teacher: Tensor) -> Tensor:
    """How far each value is from the right side of the boundary by a margin of 1, squared, summed per row."""
    towards = torch.where(teacher > 0, -student, student)
    return F.relu(1 + towards).square().sum() / len(student)


def _connector(student: Tensor, teacher: Tensor) -> nn.Module:
    if student.shape[1:3] == teacher.shape[1:3]:
        return nn.Identity()
    return hint_regressor(student, teacher, relu=False)


class AB(Objective):
    """`ab_loss` over all stages: the first stage of a run whose main phase does without it.

    Raises ValueError in `setup` where no regressor leads from the student's map to the teacher's.
    """

    paper = Paper(
        "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        2019,
        "1811.03233",
    )
    formula = "sum over stages of 3/1000 * 2^(l-n+1) * sum(ReLU(1 - sign(t) s)^2) / N, before the ReLU"
    defaults_from = "RepDistiller: all stages, 30 epochs before the cross-entropy"
    disagreements = (
        "The authors' code connects by 1x1 convolutions with BatchNorm (by nothing between wide residual networks "
        "of one width); RepDistiller and this file by nothing where the shapes agree, else by a convolution "
        "that also changes the size.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage*.pre",)

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make a connector for each stage whose shapes differ."""
        ours, theirs = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.connectors = nn.ModuleList(map(_connector, ours, theirs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`ab_loss` of the connected maps: a scalar in squared units of the maps."""
        features = zip(self.connectors, student.select_features(self.student_features), strict=True)
        return ab_loss(
            [connect(feature) for connect, feature in features],
            teacher.select_features(self.teacher_features),
        )
