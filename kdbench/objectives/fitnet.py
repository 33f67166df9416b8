"""FitNet (Romero et al. 2015, arXiv:1412.6550): squared error of one stage's map, after a regressor."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import hint_regressor
from kdbench.utils.validation import check_at_least


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared error of two maps over all elements.

    Args:
        student: The student's map [N, C, H, W] after the regressor.
        teacher: The teacher's map [N, C, H, W].

    Returns:
        A scalar in squared units of the teacher's map.
    """
    return F.mse_loss(student, teacher)


class FitNet(Objective):
    """`fitnet_loss` of one stage; a regressor brings the student's map to the teacher's shape.

    `setup` raises ValueError if the student's map is lower than the teacher's and not half as high.

    Args:
        hint: Number of the stage, from 1.

    Raises:
        ValueError: If `hint` is below 1.
    """

    paper = Paper("FitNets: Hints for Thin Deep Nets", 2015, "1412.6550")
    formula = "mean over elements of (r(F_s) - F_t)^2, r = ReLU(BN(conv))"
    defaults_from = "RepDistiller: the second stage"
    disagreements = (
        "The paper trains the student up to the hint in a separate stage and distils logits afterwards. "
        "RepDistiller and kdbench add the hint to the cross-entropy from the first epoch; there is no "
        "switch.",
    )
    needs = ("features",)

    def __init__(self, hint: int = 2) -> None:
        super().__init__()
        check_at_least("FitNet", 1, hint=hint)
        self.student_features = self.teacher_features = (f"stage{hint}",)

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the regressor from the student's map to the teacher's shape."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.regressor = hint_regressor(ours, theirs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `fitnet_loss` of the regressed hint: a scalar in squared units of the teacher's map."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return fitnet_loss(self.regressor(ours), theirs)
