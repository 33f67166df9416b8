"""ReviewKD (Chen et al. 2021, arXiv:2104.09044): hierarchical context loss of fused student maps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import BatchNorm
from kdbench.utils.validation import check_at_least

GRIDS = (4, 2, 1)
"""Heights and widths at which two maps are compared in addition to their own."""


def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the hierarchical context loss of one level.

    This is the mean squared error of the maps and of their averages over grids.

    The averages over grids of 4, 2 and 1 cells per side (those smaller than H) have the weights 1/2, 1/4,
    ...; the weighted sum is divided by the total weight.

    Args:
        student: Maps [N, C, H, W].
        teacher: Maps of the same shape.

    Returns:
        A scalar in squared units of the maps.
    """
    difference = student - teacher
    grids = [grid for grid in GRIDS if grid < difference.shape[-2]]
    # averaging is linear: average the difference once instead of both maps
    errors = [difference, *(F.adaptive_avg_pool2d(difference, grid) for grid in grids)]
    weights = [0.5**halvings for halvings in range(len(errors))]
    terms = [weight * error.square().mean() for weight, error in zip(weights, errors, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def reviewkd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the sum of `hcl_loss` over levels.

    Args:
        student: Fused maps [N, C, H, W], one per level, with the shapes of the teacher's.
        teacher: The teacher's maps, in the same order.

    Returns:
        A scalar in squared units of the maps.

    Raises:
        ValueError: If one side has more levels.
    """
    return torch.stack([hcl_loss(s, t) for s, t in zip(student, teacher, strict=True)]).sum()


class Fusion(nn.Module):
    """Attention-based fusion of the student's map with the fused map of the next deeper level.

    Args:
        inputs: Channels of the student's map.
        mid: Channels of the fused map.
        outputs: Channels of the teacher's map.
        reviews: Whether there is a deeper level; false for the deepest.
    """

    def __init__(self, inputs: int, mid: int, outputs: int, reviews: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(inputs, mid, 1, bias=False), BatchNorm(mid))
        self.leave = nn.Sequential(nn.Conv2d(mid, outputs, 3, padding=1, bias=False), BatchNorm(outputs))
        self.attention = nn.Conv2d(2 * mid, 2, 1) if reviews else None
        for convolution in (self.enter[0], self.leave[0]):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Fuse one level.

        Args:
            x: The student's map [N, inputs, h, w].
            deeper: The fused map of the deeper level, or None.
            size: Height and width of the output.

        Returns:
            The output [N, outputs, *size], and the fused map [N, mid, *size] for the level above.
        """
        x = self.enter(x)
        if self.attention is not None and deeper is not None:
            deeper = _resize(deeper, (x.shape[-2], x.shape[-1]))
            weight, deeper_weight = self.attention(torch.cat((x, deeper), dim=1)).sigmoid().split(1, dim=1)
            x = weight * x + deeper_weight * deeper
        x = _resize(x, size)
        return self.leave(x), x


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size)


def _as_map(feature: Tensor) -> Tensor:
    """Return a pooled vector [N, D] as a map [N, D, 1, 1]; maps are returned unchanged."""
    return feature[:, :, None, None] if feature.dim() == 2 else feature


class ReviewKD(Objective):
    """`reviewkd_loss` over all stages and the pooled vector, with a chain of fusions from deep to shallow.

    The rising weight of the paper is a ramp of the recipe.

    Args:
        mid: Width of the fused maps, at most that of the student's pooled vector.
        student_pre: Take the student's stages before their ReLU, as on ImageNet; the teacher's always are.

    Raises:
        ValueError: If `mid` is below 1.
    """

    paper = Paper("Distilling Knowledge via Knowledge Review", 2021, "2104.09044")
    formula = "sum over levels of HCL(ABF(F_s, deeper), F_t), HCL = weighted MSE at grids H, 4, 2, 1"
    defaults_from = "the authors' CIFAR-100 code: mid 512, the student's stages after their ReLU"
    high_cost = (
        "a chain of 3x3 convolutions up to the largest map: more multiplications than the student itself has"
    )
    disagreements = (
        "The authors' code reads channels and sizes from a table per student; kdbench reads them from a "
        "probe batch, so any pair works.",
        "The authors take the student's stages after the ReLU on CIFAR-100 and before it on ImageNet: "
        "student_pre.",
        "A batch of one row has a single pooled value per channel, which BatchNorm cannot train on; kdbench "
        "uses the running statistics of that level then.",
    )
    needs = ("features", "pooled")
    teacher_features = ("stage*.pre", "pooled")

    def __init__(self, mid: int = 512, student_pre: bool = False) -> None:
        super().__init__()
        check_at_least("ReviewKD", 1, mid=mid)
        self.mid = mid
        self.student_features = ("stage*.pre" if student_pre else "stage*", "pooled")

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create a fusion for each level, shallow first."""
        ours = [feature.shape[1] for feature in probes.student.select_features(self.student_features)]
        theirs = [feature.shape[1] for feature in probes.teacher.select_features(self.teacher_features)]
        mid, deepest = min(self.mid, ours[-1]), len(ours) - 1
        levels = enumerate(zip(ours, theirs, strict=True))
        self.fusions = nn.ModuleList(Fusion(s, mid, t, reviews=level < deepest) for level, (s, t) in levels)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `reviewkd_loss` of the fused maps: a scalar in squared units of the maps."""
        theirs = [_as_map(feature) for feature in teacher.select_features(self.teacher_features)]
        ours = [_as_map(feature) for feature in student.select_features(self.student_features)]
        outputs: list[Tensor] = []
        deeper = None
        for fuse, feature, target in zip(
            reversed(self.fusions), reversed(ours), reversed(theirs), strict=True
        ):
            output, deeper = fuse(feature, deeper, (target.shape[-2], target.shape[-1]))
            outputs.append(output)
        return reviewkd_loss(outputs[::-1], theirs)
