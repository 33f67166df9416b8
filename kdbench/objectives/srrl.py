"""SRRL, Yang et al. 2021: (f_s - f_t)^2 + (W_t f_s + b_t - z_t)^2, f_s brought to the teacher's width."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import BatchNorm


def srrl_loss(
    student: Tensor,
    teacher: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    logit_weight: float = 1.0,
) -> Tensor:
    """MSE(student, teacher) + logit_weight * MSE(student_logits, teacher_logits), means over all elements.

    student, teacher: pooled features [N, D]; student_logits: what the teacher's classifier makes of the
    student's, teacher_logits: of its own, [N, C]. Returns a scalar, the sum of squared units of both.
    """
    return F.mse_loss(student, teacher) + logit_weight * F.mse_loss(student_logits, teacher_logits)


class SRRL(Objective):
    """`srrl_loss` of the student's last map after a 1x1 convolution, BatchNorm, ReLU and the spatial mean.

    pooled_first: the convolution sees the pooled features, as in SimKD's toolbox.
    Raises ValueError unless 0 <= logit_weight < inf.
    """

    paper = Paper("Knowledge Distillation via Softmax Regression Representation Learning", 2021)
    formula = (
        "mean (f - f_t)^2 + w mean (W_t f + b_t - z_t)^2, f = mean over positions of ReLU(BN(conv1x1(F_s)))"
    )
    defaults_from = "The authors' ImageNet code: both terms with weight 1"
    disagreements = (
        "The authors' code pools after the connector, SimKD's toolbox before it (pooled_first=True).",
        "One row whose map is 1 x 1 (as with pooled_first), which BatchNorm refuses to train on, uses the "
        "running statistics.",
        "The authors searched CIFAR-100 weights per pair, and did not publish them.",
        "The map is the one that the student pools, after its last convolution (MobileNetV2 and ShuffleV2 have one "
        "after their last stage).",
    )
    needs: tuple[str, ...] = ("logits", "features", "pooled", "classifier")
    student_features = ("unpooled",)
    teacher_features = ("pooled",)

    def __init__(self, logit_weight: float = 1.0, pooled_first: bool = False) -> None:
        super().__init__()
        if not 0 <= logit_weight < math.inf:
            raise ValueError(f"SRRL: logit_weight must be finite and not negative, got {logit_weight}")
        self.logit_weight, self.pooled_first = logit_weight, pooled_first
        if pooled_first:
            self.student_features, self.needs = ("pooled",), ("logits", "pooled", "classifier")

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the connector, He-normal by its fan-out; ValueError where no linear layer ends the teacher."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        if probes.teacher.classifier is None:
            raise ValueError("SRRL needs a teacher that ends in one linear layer")
        if ours.dim() != (2 if self.pooled_first else 4):
            raise ValueError(f"SRRL needs a student's map [N, C, H, W], got {list(ours.shape)}")
        convolution = nn.Conv2d(ours.shape[1], theirs.shape[1], 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        self.connector = nn.Sequential(convolution, BatchNorm(theirs.shape[1]), nn.ReLU(inplace=True))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`srrl_loss` of the connected features: a scalar."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        features = ours[:, :, None, None] if self.pooled_first else ours
        connected = self.connector(features).mean(dim=(2, 3))
        assert teacher.classifier is not None
        logits = F.linear(connected, *teacher.classifier)
        return srrl_loss(connected, theirs, logits, teacher.logits, self.logit_weight)
