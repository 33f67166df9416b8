"""SRRL (Yang et al. 2021): match the teacher's features and the logits that its classifier makes of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import BatchNorm
from kdbench.utils.validation import check_non_negative


def srrl_loss(
    student: Tensor,
    teacher: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    logit_weight: float = 1.0,
) -> Tensor:
    """Return MSE(student, teacher) + logit_weight * MSE(student_logits, teacher_logits).

    Both are averaged over all elements.

    Args:
        student: The student's pooled features, brought to the teacher's width [N, D].
        teacher: The teacher's pooled features [N, D].
        student_logits: Logits [N, C] of the teacher's classifier on the student's features.
        teacher_logits: Logits [N, C] of the teacher.
        logit_weight: Weight of the logit term.

    Returns:
        A scalar: the sum of squared features and squared logits.
    """
    return F.mse_loss(student, teacher) + logit_weight * F.mse_loss(student_logits, teacher_logits)


class SRRL(Objective):
    """`srrl_loss` of the student's last map after a 1x1 convolution, BatchNorm, ReLU and the spatial mean.

    Args:
        logit_weight: Weight of the logit term.
        pooled_first: Apply the convolution to the pooled features, as in SimKD's toolbox.

    Raises:
        ValueError: If `logit_weight` is negative or not finite.
    """

    paper = Paper("Knowledge Distillation via Softmax Regression Representation Learning", 2021)
    formula = (
        "mean (f - f_t)^2 + w mean (W_t f + b_t - z_t)^2, f = mean over positions of ReLU(BN(conv1x1(F_s)))"
    )
    defaults_from = "the authors' ImageNet code: both terms with weight 1"
    disagreements = (
        "The authors' code pools after the connector, SimKD's toolbox before it (pooled_first=True).",
        "One row whose map is 1 x 1 (as with pooled_first), which BatchNorm cannot train on, uses the "
        "running statistics.",
        "The authors searched CIFAR-100 weights per pair and did not publish them.",
        "The map is the one that the student pools, after its last convolution (MobileNetV2 and ShuffleV2 "
        "have one after their last stage).",
    )
    needs: tuple[str, ...] = ("logits", "features", "pooled", "classifier")
    student_features = ("unpooled",)
    teacher_features = ("pooled",)

    def __init__(self, logit_weight: float = 1.0, pooled_first: bool = False) -> None:
        super().__init__()
        check_non_negative("SRRL", logit_weight=logit_weight)
        self.logit_weight, self.pooled_first = logit_weight, pooled_first
        if pooled_first:
            self.student_features, self.needs = ("pooled",), ("logits", "pooled", "classifier")

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the connector, He-normal by its fan-out.

        Raises:
            ValueError: If the teacher does not end in one linear layer, or the student's feature is not a
                map.
        """
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        if probes.teacher.classifier is None:
            raise ValueError(
                "SRRL: the teacher does not end in one linear layer; choose one that does, such as resnet32x4"
            )
        if ours.dim() != (2 if self.pooled_first else 4):
            raise ValueError(
                f"SRRL: the student's last feature must be a map [N, C, H, W], got {list(ours.shape)}; "
                f"with pooled_first=true it is a vector [N, C]"
            )
        convolution = nn.Conv2d(ours.shape[1], theirs.shape[1], 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        self.connector = nn.Sequential(convolution, BatchNorm(theirs.shape[1]), nn.ReLU(inplace=True))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `srrl_loss` of the connected features: a scalar."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        features = ours[:, :, None, None] if self.pooled_first else ours
        connected = self.connector(features).mean(dim=(2, 3))
        assert teacher.classifier is not None
        logits = F.linear(connected, *teacher.classifier)
        return srrl_loss(connected, theirs, logits, teacher.logits, self.logit_weight)
