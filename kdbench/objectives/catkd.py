"""CAT-KD (Guo et al. 2023, arXiv:2304.12777): mean squared difference of class activation maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors
from kdbench.utils.validation import check_at_least


def class_maps(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear classifier at each position of a feature map.

    Args:
        features: Feature maps [N, D, H, W].
        weight: The classifier's weight [C, D].
        bias: The classifier's bias [C], or None.

    Returns:
        Class activation maps [N, C, H, W], in logits.
    """
    return F.conv2d(features, weight[:, :, None, None], bias)


def catkd_loss(student: Tensor, teacher: Tensor, resolution: int = 2, normalise: bool = True) -> Tensor:
    """Return the mean squared difference of pooled class activation maps.

    Args:
        student: Class activation maps [N, C, H, W].
        teacher: Class activation maps [N, C, H, W]; H and W may differ from the student's.
        resolution: Both maps are average-pooled to resolution x resolution positions first.
        normalise: Divide each class's map of a row by its Euclidean norm.

    Returns:
        A scalar; dimensionless with `normalise`, else in squared logits.
    """
    pooled = (F.adaptive_avg_pool2d(maps, resolution).flatten(2) for maps in (student, teacher))
    ours, theirs = (unit_vectors(maps) if normalise else maps for maps in pooled)
    return F.mse_loss(ours, theirs)


class CATKD(Objective):
    """`catkd_loss` of class activation maps, which each side's own classifier makes.

    The student's classifier is trained through its maps.

    Args:
        resolution: Positions per side of the maps that are compared.
        normalise: Divide each map by its norm.
        bias: Add the classifier's bias, so that the mean over positions is the logits.

    Raises:
        ValueError: If `resolution` is below 1.
    """

    paper = Paper("Class Attention Transfer Based Knowledge Distillation", 2023, "2304.12777")
    formula = "mean (u_s - u_t)^2, u = A / ||A|| per class, A = r x r means of w_k . F(h, w)"
    defaults_from = "the authors' code for CIFAR-100: resolution 2 (4 for ShuffleNets), normalised"
    disagreements = (
        "The authors' code replaces both classifiers by 1x1 convolutions without bias, and drops the bias of"
        " the trained teacher. In kdbench the networks keep their biases, and the maps are computed without "
        "them (bias=False).",
    )
    needs = ("features", "classifier")
    student_features = teacher_features = ("unpooled",)

    def __init__(self, resolution: int = 2, normalise: bool = True, bias: bool = False) -> None:
        super().__init__()
        check_at_least("CATKD", 1, resolution=resolution)
        self.resolution, self.normalise, self.bias = resolution, normalise, bias

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Check that each side's last map is the input of its classifier; nothing is created.

        Raises:
            ValueError: If a network does not end in one linear layer, or its last map has another number of
                channels.
        """
        _check("student", probes.student, self.student_features)
        _check("teacher", probes.teacher, self.teacher_features)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `catkd_loss` of the class activation maps: a scalar."""
        ours, theirs = self._maps(student, self.student_features), self._maps(teacher, self.teacher_features)
        return catkd_loss(ours, theirs, self.resolution, self.normalise)

    def _maps(self, side: Outputs, names: tuple[str, ...]) -> Tensor:
        (features,) = side.select_features(names)
        assert side.classifier is not None
        weight, bias = side.classifier
        # The classifier is linear: averaging before it gives the same result for a fraction of the work.
        averaged = F.adaptive_avg_pool2d(features, self.resolution)
        return class_maps(averaged, weight, bias if self.bias else None)


def _check(name: str, side: Outputs, names: tuple[str, ...]) -> None:
    (features,) = side.select_features(names)
    if side.classifier is None:
        raise ValueError(
            f"CATKD: the {name} does not end in one linear layer; choose a network that does, such as resnet8x4"
        )
    width = side.classifier[0].shape[1]
    if features.shape[1] != width:
        raise ValueError(
            f"CATKD: the {name}'s last map {list(features.shape[1:])} is not the input of its classifier, which has "
            f"{width} inputs; choose a {name} whose last map has {width} channels"
        )
