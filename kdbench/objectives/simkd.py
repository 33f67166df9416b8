"""SimKD (Chen et al. 2022, arXiv:2203.14001): match the last map and reuse the teacher's classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller
from kdbench.utils.validation import check_at_least


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two maps.

    Args:
        student: The projected student map [N, C, H, W].
        teacher: The teacher's map of the same shape.

    Returns:
        A scalar in squared units of the teacher's map.
    """
    return F.mse_loss(student, teacher)


def _projector(inputs: int, outputs: int, factor: int) -> nn.Sequential:
    inner = outputs // factor
    shapes = ((inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1))
    layers: list[nn.Module] = []
    for before, after, kernel in shapes:
        convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SimKD(Objective):
    """`simkd_loss` of the student's projected last map, with the teacher's classifier on top.

    `predict` replaces the student's classifier by the teacher's on the projected map. Projector and
    classifier (a frozen copy of the teacher's) therefore belong to the student at test time: all of
    `parameters()`.

    Args:
        factor: How many times narrower than the teacher's map the projector is inside.

    Raises:
        ValueError: If `factor` is below 1.
    """

    paper = Paper("Knowledge Distillation with the Reused Teacher Classifier", 2022, "2203.14001")
    formula = "mean (P(F_s) - F_t)^2, P = conv1x1-BN-ReLU, conv3x3-BN-ReLU, conv1x1-BN-ReLU"
    defaults_from = "the authors' code: factor 2"
    disagreements = (
        "The larger of both maps is averaged to the size of the smaller one, as in the code. If the "
        "student's map is the larger one, it is averaged at test time too.",
    )
    needs = ("features", "classifier")
    student_features = ("stage-1",)
    teacher_features = ("unpooled",)
    owns_predict = True
    size: Tensor

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        check_at_least("SimKD", 1, factor=factor)
        self.factor = factor

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the projector and copy the teacher's classifier.

        Raises:
            ValueError: If the teacher does not end in one linear layer, the layer does not fit the last map,
                or `factor` exceeds its channels.
        """
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        if probes.teacher.classifier is None:
            raise ValueError(
                "SimKD: the teacher does not end in one linear layer; choose one that does, such as resnet32x4"
            )
        weight, bias = probes.teacher.classifier
        channels = theirs.shape[1]
        if channels != weight.shape[1]:
            raise ValueError(
                f"SimKD: the teacher's last map {list(theirs.shape[1:])} is not the input of its classifier, which has "
                f"{weight.shape[1]} inputs; choose a teacher whose last map has {weight.shape[1]} channels"
            )
        if channels < self.factor:
            raise ValueError(
                f"SimKD: factor must be at most {channels}, the channels of the teacher's last map, got {self.factor}"
            )
        height, width = theirs.shape[2:]
        self._size = height, width
        # a buffer, so that a stored predictor knows the size
        self.register_buffer("size", torch.tensor(self._size))
        self.projector = _projector(ours.shape[1], channels, self.factor)
        self.head = nn.Linear(channels, weight.shape[0], bias=bias is not None).requires_grad_(False)
        self.head.weight.copy_(weight)
        if bias is not None:
            self.head.bias.copy_(bias)

    def predict(self, student: Outputs) -> Tensor:
        """Return the logits [N, C] of the teacher's classifier on the mean of the projected map."""
        (ours,) = student.select_features(self.student_features)
        smaller = ours if ours.shape[2] <= self._size[0] else F.adaptive_avg_pool2d(ours, self._size)
        logits: Tensor = self.head(self.projector(smaller).mean(dim=(2, 3)))
        return logits

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `simkd_loss` at the size of the smaller map: a scalar in squared units of the teacher's map."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        ours, theirs = pool_to_smaller(ours, theirs)
        return simkd_loss(self.projector(ours), theirs)
