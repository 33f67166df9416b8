"""RKD, relational knowledge distillation (Park et al. 2019, arXiv:1904.05068): distances and angles of rows."""

import math

import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.utils.validation import check_non_negative


def rkd_loss(
    student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Return distance_weight * smooth L1 of relative distances + angle_weight * smooth L1 of angles.

    Distances are relative to their mean. The means are over N^2 pairs and N^3 triplets, degenerate ones
    included. Equal rows have distance 0 and cosine 0, and are left out of the mean distance. Memory grows as
    N^2 (N + D).

    Args:
        student: Vectors [N, D].
        teacher: Vectors [N, D]; D may differ from the student's.
        distance_weight: Weight of the distances.
        angle_weight: Weight of the angles.

    Returns:
        A dimensionless scalar.
    """
    (distances, cosines), (target_distances, target_cosines) = _relations(student), _relations(teacher)
    distance = F.smooth_l1_loss(_relative(distances), _relative(target_distances))
    angle = F.smooth_l1_loss(cosines, target_cosines)
    return distance_weight * distance + angle_weight * angle


def _relations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances [N, N], and at [i, j, k] the cosine of the angle at row i between rows j and k.

    Both are 0, with gradient 0, where rows are equal. They are computed from the differences: the law of
    cosines subtracts squared distances, which loses all float32 digits for rows that nearly coincide.
    """
    differences = rows - rows[:, None]
    distances: Tensor = vector_norm(differences, dim=-1)
    inverse = distances.masked_fill(distances == 0, math.inf).reciprocal()
    directions = differences * inverse[:, :, None]
    return distances, directions @ directions.mT


def _relative(distances: Tensor) -> Tensor:
    """Divide distances by the mean of the positive ones; all are 0 where none is positive."""
    positive = (distances > 0).sum().clamp(min=1)
    mean = distances.sum() / positive
    return distances / mean.masked_fill(mean == 0, 1.0)


class RKD(Objective):
    """`rkd_loss` of the pooled features, with the same parameters.

    Raises:
        ValueError: If a weight is negative or not finite.
    """

    paper = Paper("Relational Knowledge Distillation", 2019, "1904.05068")
    formula = "25 smoothL1(d_s / mean d_s, d_t / mean d_t) + 50 smoothL1(cos angle_s, cos angle_t)"
    defaults_from = "RepDistiller: 25 and 50"
    disagreements = (
        "Equal rows have distance 1e-6 in the published code, which raises their squared distance to 1e-12, "
        "and count in the mean distance; here they have distance 0 and do not count.",
    )
    needs = ("pooled",)
    student_features = teacher_features = ("pooled",)
    couples_rows = True

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        check_non_negative("RKD", distance_weight=distance_weight, angle_weight=angle_weight)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `rkd_loss` of the pooled features: a dimensionless scalar."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return rkd_loss(ours, theirs, self.distance_weight, self.angle_weight)
