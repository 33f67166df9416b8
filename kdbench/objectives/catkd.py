"""CAT-KD, Guo et al. 2023, arXiv:2304.12777: (CAM_s - CAM_t)^2, class activation maps of unit length per class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors


def class_maps(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a linear classifier says at each position: [N, D, H, W], [C, D], [C] -> [N, C, H, W] (logits)."""
    return F.conv2d(features, weight[:, :, None, None], bias)


def catkd_loss(student: Tensor, teacher: Tensor, resolution: int = 2, normalise: bool = True) -> Tensor:
    """The mean squared difference of the maps, averaged adaptively to resolution x resolution positions.

    student, teacher: class activation maps [N, C, H, W], of different H, W if need be. Returns a scalar:
    dimensionless where each class's map of a row is divided by its Euclidean norm (normalise).
    """
    pooled = (F.adaptive_avg_pool2d(maps, resolution).flatten(2) for maps in (student, teacher))
    ours, theirs = (unit_vectors(maps) if normalise else maps for maps in pooled)
    return F.mse_loss(ours, theirs)


class CATKD(Objective):
    """`catkd_loss` of both sides' class activation maps, each by its own classifier, which the student's learns.

    resolution: positions per side of the maps compared; normalise: divide each by its norm; bias: add the
    classifier's, so that the mean over positions is the logits.
    Raises ValueError unless resolution >= 1.
    """

    paper = Paper("Class Attention Transfer Based Knowledge Distillation", 2023, "2304.12777")
    formula = "mean (u_s - u_t)^2, u = A / ||A|| per class, A = r x r means of w_k . F(h, w)"
    defaults_from = "The authors' code for CIFAR-100: resolution 2 (4 for ShuffleNets), normalised"
    disagreements = (
        "The authors' code replaces both classifiers by 1x1 convolutions without bias, and drops the trained "
        "teacher's; here the networks keep theirs, and the maps are made without it (bias=False).",
    )
    needs = ("features", "classifier")
    student_features = teacher_features = ("unpooled",)

    def __init__(self, resolution: int = 2, normalise: bool = True, bias: bool = False) -> None:
        super().__init__()
        if resolution < 1:
            raise ValueError(f"CATKD: resolution must be 1 or more, got {resolution}")
        self.resolution, self.normalise, self.bias = resolution, normalise, bias

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make nothing; ValueError where a side's last map is not what its classifier averages."""
        _check("student", probes.student, self.student_features)
        _check("teacher", probes.teacher, self.teacher_features)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`catkd_loss` of the class activation maps: a scalar."""
        ours, theirs = self._maps(student, self.student_features), self._maps(teacher, self.teacher_features)
        return catkd_loss(ours, theirs, self.resolution, self.normalise)

    def _maps(self, side: Outputs, names: tuple[str, ...]) -> Tensor:
        (features,) = side.select_features(names)
        assert side.classifier is not None
        weight, bias = side.classifier
        # the classifier is linear: averaging before it gives the same, for a fraction of the work
        averaged = F.adaptive_avg_pool2d(features, self.resolution)
        return class_maps(averaged, weight, bias if self.bias else None)


def _check(name: str, side: Outputs, names: tuple[str, ...]) -> None:
    (features,) = side.select_features(names)
    if side.classifier is None:
        raise ValueError(f"CATKD needs a {name} that ends in one linear layer")
    width = side.classifier[0].shape[1]
    if features.shape[1] != width:
        raise ValueError(
            f"CATKD: the {name}'s last map {list(features.shape[1:])} is not what its classifier averages: "
            f"that has {width} inputs; a {name} with {width} channels there would fit"
        )
