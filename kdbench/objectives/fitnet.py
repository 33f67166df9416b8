"""FitNet, Romero et al. 2015, arXiv:1412.6550: ||r(F_s) - F_t||^2 / elements, with a learned regressor r."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import hint_regressor


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared error of two maps of one shape [N, C, H, W], over all elements.

    student: the student's map after the regressor. Returns a scalar in squared units of the teacher's map.
    """
    return F.mse_loss(student, teacher)


class FitNet(Objective):
    """`fitnet_loss` between stage `hint` of the teacher and the student's, which a regressor brings to its shape.

    Raises ValueError unless hint >= 1; in `setup`, where the student's map is lower than the teacher's and not
    half as high.
    """

    paper = Paper("FitNets: Hints for Thin Deep Nets", 2015, "1412.6550")
    formula = "mean over elements of (r(F_s) - F_t)^2, r = ReLU(BN(conv))"
    defaults_from = "RepDistiller: the second stage"
    disagreements = (
        "The paper trains the student up to the hint in a stage of its own and distils logits afterwards; "
        "RepDistiller and this file add the hint to the cross-entropy from the first epoch, without a switch.",
    )
    needs = ("features",)

    def __init__(self, hint: int = 2) -> None:
        super().__init__()
        if hint < 1:
            raise ValueError(f"FitNet: hint must be the number of a stage, 1 or more, got {hint}")
        self.student_features = self.teacher_features = (f"stage{hint}",)

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the regressor, from the student's map to the teacher's shape."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.regressor = hint_regressor(ours, theirs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`fitnet_loss` of the regressed hint: a scalar in squared units of the teacher's map."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return fitnet_loss(self.regressor(ours), theirs)
