"""RKD, Park et al. 2019, arXiv:1904.05068: smooth L1 of relative distances (25) and of angles (50) of rows."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core import Batch, Objective, Outputs, Paper


def rkd_loss(
    student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """distance_weight * smooth L1 of the distances over their mean + angle_weight * smooth L1 of the angles.

    student, teacher: vectors [N, D]; D may differ. Returns a dimensionless scalar: means over N^2 pairs and
    N^3 triplets, degenerate ones included. Equal rows have distance 0 and cosine 0, and are left out of the
    mean distance. Memory grows as N^3.
    """
    ours, theirs = _distances(student), _distances(teacher)
    distance = F.smooth_l1_loss(_relative(ours), _relative(theirs))
    angle = F.smooth_l1_loss(_cosines(ours), _cosines(theirs))
    return distance_weight * distance + angle_weight * angle


def _distances(rows: Tensor) -> Tensor:
    """Euclidean, [N, N], from the differences: exactly 0, with gradient 0, where rows are equal."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _relative(distances: Tensor) -> Tensor:
    """Distances over the mean of the positive ones (all 0 where none is)."""
    positive = (distances > 0).sum().clamp(min=1)
    mean = distances.sum() / positive
    return distances / mean.masked_fill(mean == 0, 1.0)


def _cosines(distances: Tensor) -> Tensor:
    """At [i, j, k]: of the angle at row i between rows j and k, by the law of cosines; 0 where a side is 0."""
    none = distances == 0
    inverse = distances.masked_fill(none, math.inf).reciprocal()
    squares = distances.square()
    sides = squares[:, :, None] + squares[:, None, :] - squares
    return sides * (0.5 * inverse)[:, :, None] * inverse[:, None, :]


class RKD(Objective):
    """`rkd_loss` of the pooled features as an objective.

    Raises ValueError unless 0 <= distance_weight, angle_weight < inf.
    """

    paper = Paper("Relational Knowledge Distillation", 2019, "1904.05068")
    formula = "25 smoothL1(d_s / mean d_s, d_t / mean d_t) + 50 smoothL1(cos angle_s, cos angle_t)"
    defaults_from = "RepDistiller: 25 and 50"
    disagreements = (
        "Equal rows have distance 1e-6 in the published code, where their squared distance is raised to 1e-12, "
        "and count in the mean distance; here they have 0 and do not count.",
    )
    needs = ("pooled",)
    student_taps = teacher_taps = ("pooled",)
    couples_rows = True

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        for name, value in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"RKD: {name} must be finite and not negative, got {value}")
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`rkd_loss` of the pooled features: a dimensionless scalar."""
        (ours,), (theirs,) = student.tapped(self.student_taps), teacher.tapped(self.teacher_taps)
        return rkd_loss(ours, theirs, self.distance_weight, self.angle_weight)
