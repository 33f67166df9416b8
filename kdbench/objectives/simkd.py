"""SimKD, Chen et al. 2022, arXiv:2203.14001: (P(F_s) - F_t)^2; the teacher's classifier answers for the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two maps of one shape [N, C, H, W], in squared units of the teacher's."""
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
    """`simkd_loss` of the student's last map, projected, and the map that the teacher's classifier averages.

    `predict` replaces the student's classifier by the teacher's on the projected map, so projector and
    classifier (a frozen copy of the teacher's) belong to the student at test time: all of `parameters()`.
    factor: how many times narrower than the teacher's map the projector is inside.
    Raises ValueError unless factor >= 1.
    """

    paper = Paper("Knowledge Distillation with the Reused Teacher Classifier", 2022, "2203.14001")
    formula = "mean (P(F_s) - F_t)^2, P = conv1x1-BN-ReLU, conv3x3-BN-ReLU, conv1x1-BN-ReLU"
    defaults_from = "The authors' code: factor 2"
    disagreements = (
        "The larger of both maps is averaged to the smaller one's size, as in the code; where that is the "
        "student's, so is it at test time.",
    )
    needs = ("features", "classifier")
    student_features = ("stage-1",)
    teacher_features = ("unpooled",)
    owns_predict = True
    size: Tensor

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"SimKD: factor must be 1 or more, got {factor}")
        self.factor = factor

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the projector and copy the teacher's classifier; ValueError where that does not fit its map."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        if probes.teacher.classifier is None:
            raise ValueError("SimKD needs a teacher that ends in one linear layer")
        weight, bias = probes.teacher.classifier
        channels = theirs.shape[1]
        if channels != weight.shape[1]:
            raise ValueError(
                f"SimKD: the teacher's last map {list(theirs.shape[1:])} is not what its classifier averages: "
                f"that has {weight.shape[1]} inputs; a teacher with {weight.shape[1]} channels there would fit"
            )
        if channels < self.factor:
            raise ValueError(
                f"SimKD: factor {self.factor} leaves nothing of the teacher's {channels} channels"
            )
        height, width = theirs.shape[2:]
        self._size = height, width
        # in the state, so that a stored predictor says it
        self.register_buffer("size", torch.tensor(self._size))
        self.projector = _projector(ours.shape[1], channels, self.factor)
        self.head = nn.Linear(channels, weight.shape[0], bias=bias is not None).requires_grad_(False)
        self.head.weight.copy_(weight)
        if bias is not None:
            self.head.bias.copy_(bias)

    def predict(self, student: Outputs) -> Tensor:
        """The teacher's classifier on the mean of the projected map: logits [N, C]."""
        (ours,) = student.select_features(self.student_features)
        smaller = ours if ours.shape[2] <= self._size[0] else F.adaptive_avg_pool2d(ours, self._size)
        logits: Tensor = self.head(self.projector(smaller).mean(dim=(2, 3)))
        return logits

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`simkd_loss` of the maps, at the size of the smaller: a scalar in squared units of the teacher's map."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        ours, theirs = pool_to_smaller(ours, theirs)
        return simkd_loss(self.projector(ours), theirs)
