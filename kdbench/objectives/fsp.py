"""FSP, flow of solution procedure (Yim et al. 2017): Gram matrices between consecutive maps."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller


def fsp_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of the flow matrices, summed over consecutive pairs of maps.

    The flow of a row is the mean over positions of bottom_c * top_d, a matrix [C, D]; the larger of the two
    maps is averaged down first.

    Args:
        student: Maps [N, C, H, W], shallow first.
        teacher: Maps with the same channels as the student's; sizes may differ.

    Returns:
        A scalar in the fourth power of the maps' units.

    Raises:
        ValueError: If one side has more maps.
    """
    flows = zip(_flows(student), _flows(teacher), strict=True)
    return torch.stack([F.mse_loss(ours, theirs) for ours, theirs in flows]).sum()


def _flows(maps: Sequence[Tensor]) -> list[Tensor]:
    return [_flow(*pool_to_smaller(bottom, top)) for bottom, top in pairwise(maps)]


def _flow(bottom: Tensor, top: Tensor) -> Tensor:
    bottom, top = bottom.flatten(2), top.flatten(2)
    return bottom @ top.mT / bottom.shape[-1]


class FSP(Objective):
    """`fsp_loss` over the stem and all stages, for a first stage of training; the main stage does not use it.

    `setup` raises ValueError if the channels of the two sides differ.
    """

    paper = Paper(
        "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
        2017,
    )
    formula = "sum over consecutive maps of mean (G_s - G_t)^2, G_cd = mean over positions of bottom_c top_d"
    defaults_from = "RepDistiller: the stem and all stages, 30 epochs before the cross-entropy"
    disagreements = (
        "As in RepDistiller, the flow is computed between consecutive stages, the stem first, and the larger"
        " of two maps is averaged down. The paper's own choice of layers and pooling is not reproduced.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stem", "stage*")

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Check that both sides have the same channels; nothing is learned.

        Raises:
            ValueError: If they differ.
        """
        sides = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        ours, theirs = ([list(feature.shape[1:]) for feature in features] for features in sides)
        if [channels for channels, *_ in ours] != [channels for channels, *_ in theirs]:
            raise ValueError(
                f"FSP: the channels of both sides must agree; the student's maps are {ours}, the teacher's {theirs}. "
                "Choose networks of the same width, such as resnet20 with resnet56 or wrn_16_2 with wrn_40_2"
            )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `fsp_loss` of the stem and the stages: a scalar in the maps' units to the fourth."""
        return fsp_loss(
            student.select_features(self.student_features), teacher.select_features(self.teacher_features)
        )
