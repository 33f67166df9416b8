"""AB (Heo et al. 2019, arXiv:1811.03233): match the signs of the teacher's activations before the ReLU."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import hint_regressor, sum_by_depth

SCALE = 3 / 1000
"""Factor of the sums over whole maps in the authors' code."""


def ab_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the activation boundary loss, summed over stages.

    The term of stage l = 0 ... n - 1 is 3/1000 * 2^(l - n + 1) * sum(ReLU(1 - sign * s)^2) / N, where sign is
    +1 where the teacher's ReLU is open (t > 0) and -1 elsewhere.

    Args:
        student: One map [N, C, H, W] per stage before its ReLU, the deepest (factor 1) last, after the
            connectors: the shapes are those of the teacher's maps.
        teacher: The teacher's maps [N, C, H, W] before the ReLU, in the same order.

    Returns:
        A scalar in squared units of the maps: a sum over channels and positions, averaged over rows.

    Raises:
        ValueError: If one side has more stages.
    """
    return SCALE * sum_by_depth([_violations(s, t) for s, t in zip(student, teacher, strict=True)])


def _violations(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance to a margin of 1 on the teacher's side of the boundary, summed per row."""
    towards = torch.where(teacher > 0, -student, student)
    return F.relu(1 + towards).square().sum() / len(student)


def _connector(student: Tensor, teacher: Tensor) -> nn.Module:
    if student.shape[1:3] == teacher.shape[1:3]:
        return nn.Identity()
    return hint_regressor(student, teacher, relu=False)


class AB(Objective):
    """`ab_loss` over all stages, for a first stage of training; the main stage does not use it.

    `setup` raises ValueError if no regressor can map the student's shape to the teacher's.
    """

    paper = Paper(
        "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        2019,
        "1811.03233",
    )
    formula = "sum over stages of 3/1000 * 2^(l-n+1) * sum(ReLU(1 - sign(t) s)^2) / N, before the ReLU"
    defaults_from = "RepDistiller: all stages, 30 epochs before the cross-entropy"
    disagreements = (
        "The authors' code connects the maps by 1x1 convolutions with BatchNorm, and uses no connector "
        "between wide residual networks of the same width. RepDistiller and kdbench use no connector where "
        "the shapes agree, and otherwise a convolution that also changes the size.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage*.pre",)

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create a connector for each stage whose shapes differ."""
        ours, theirs = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.connectors = nn.ModuleList(map(_connector, ours, theirs))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `ab_loss` of the connected maps: a scalar in squared units of the maps."""
        features = zip(self.connectors, student.select_features(self.student_features), strict=True)
        return ab_loss(
            [connect(feature) for connect, feature in features],
            teacher.select_features(self.teacher_features),
        )
