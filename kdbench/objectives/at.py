"""AT, attention transfer (Zagoruyko and Komodakis 2017, arXiv:1612.03928)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller, unit_vectors


def at_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of unit attention maps, summed over stages.

    The attention map of a stage is the mean over channels of the squared activations, scaled to unit length.

    Args:
        student: One map [N, C, H, W] per stage. Channels and sizes may differ from the teacher's; the larger
            map is averaged down to the size of the smaller one.
        teacher: The teacher's maps, in the same order.

    Returns:
        A dimensionless scalar, averaged over rows and positions.

    Raises:
        ValueError: If one side has more stages.
    """
    pairs = [pool_to_smaller(s, t) for s, t in zip(student, teacher, strict=True)]
    return torch.stack([F.mse_loss(_attention(s), _attention(t)) for s, t in pairs]).sum()


def _attention(maps: Tensor) -> Tensor:
    """Return the unit attention vectors [N, H * W] of maps [N, C, H, W]."""
    return unit_vectors(maps.square().mean(dim=1).flatten(1))


class AT(Objective):
    """`at_loss` over all stages as an objective."""

    paper = Paper(
        "Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via "
        "Attention Transfer",
        2017,
        "1612.03928",
    )
    formula = "sum over stages of mean over rows and positions of (A_s - A_t)^2, A = unit(mean_c F^2)"
    defaults_from = "RepDistiller: all stages, the square of the activations"
    disagreements = (
        "The paper's formula takes the norm of each difference. The authors' code, RepDistiller and kdbench "
        "take the mean of the squares, which the published weight of 1000 belongs to.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage*",)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `at_loss` of the stages: a dimensionless scalar."""
        return at_loss(
            student.select_features(self.student_features), teacher.select_features(self.teacher_features)
        )
