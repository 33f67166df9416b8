"""ReviewKD, Chen et al. 2021, arXiv:2104.09044: sum over levels of HCL(fused student map, teacher map)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import BatchNorm

GRIDS = (4, 2, 1)
"""The heights and widths at which two maps are compared besides their own."""


def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss of one level: the mean squared error of the maps and of their averages.

    student, teacher: maps [N, C, H, W] of one shape. Averages over grids of 4, 2 and 1 cells a side, those
    smaller than H, count half, a quarter, ... of the maps; the sum is over the total weight. Returns a scalar
    in squared units of the maps.
    """
    difference = student - teacher
    grids = [grid for grid in GRIDS if grid < difference.shape[-2]]
    # averaging is linear: the average's error is the error's average
    errors = [difference, *(F.adaptive_avg_pool2d(difference, grid) for grid in grids)]
    weights = [0.5**halvings for halvings in range(len(errors))]
    terms = [weight * error.square().mean() for weight, error in zip(weights, errors, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def reviewkd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """`hcl_loss` of each level, summed.

    student, teacher: maps [N, C, H, W] per level; the student's are fused, so that shapes agree level by level.
    Returns a scalar in squared units of the maps. ValueError where one side has more levels.
    """
    return torch.stack([hcl_loss(s, t) for s, t in zip(student, teacher, strict=True)]).sum()


class Fusion(nn.Module):
    """The attention based fusion of one level: the student's map, and what the deeper level hands up.

    The deepest level (`reviews` False) has nothing to be fused with.
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
        """[N, inputs, h, w] -> the output [N, outputs, *size], and [N, mid, *size] for the level above."""
        x = self.enter(x)
        if self.attention is not None and deeper is not None:
            deeper = _resized(deeper, (x.shape[-2], x.shape[-1]))
            ours, theirs = self.attention(torch.cat((x, deeper), dim=1)).sigmoid().split(1, dim=1)
            x = ours * x + theirs * deeper
        x = _resized(x, size)
        return self.leave(x), x


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size)


def _as_map(feature: Tensor) -> Tensor:
    """A pooled vector [N, D] as a map [N, D, 1, 1]."""
    return feature[:, :, None, None] if feature.dim() == 2 else feature


class ReviewKD(Objective):
    """`reviewkd_loss` over all stages and the pooled vector, with a chain of fusions from deep to shallow.

    mid: width of the fused maps, at most that of the student's pooled vector.
    student_pre: take the student's stages before their ReLU, as on ImageNet; the teacher's always are.
    The paper's rising weight is the recipe's ramp. Raises ValueError unless mid >= 1.
    """

    paper = Paper("Distilling Knowledge via Knowledge Review", 2021, "2104.09044")
    formula = "sum over levels of HCL(ABF(F_s, deeper), F_t), HCL = weighted MSE at grids H, 4, 2, 1"
    defaults_from = "the authors' CIFAR-100 code: mid 512, the student's stages after their ReLU"
    disagreements = (
        "The authors' code reads channels and sizes from a table per student, this file from a probe batch, "
        "which serves any pair.",
        "The authors take the student's stages after the ReLU on CIFAR-100 and before it on ImageNet: student_pre.",
        "A batch of one row has a single pooled value per channel, which BatchNorm refuses to train on: here that "
        "level uses its running statistics then.",
    )
    needs = ("features", "pooled")
    teacher_features = ("stage*.pre", "pooled")

    def __init__(self, mid: int = 512, student_pre: bool = False) -> None:
        super().__init__()
        if mid < 1:
            raise ValueError(f"ReviewKD: mid must be at least 1, got {mid}")
        self.mid = mid
        self.student_features = ("stage*.pre" if student_pre else "stage*", "pooled")

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make a fusion for each level, shallow first."""
        ours = [feature.shape[1] for feature in probes.student.select_features(self.student_features)]
        theirs = [feature.shape[1] for feature in probes.teacher.select_features(self.teacher_features)]
        mid, deepest = min(self.mid, ours[-1]), len(ours) - 1
        levels = enumerate(zip(ours, theirs, strict=True))
        self.fusions = nn.ModuleList(Fusion(s, mid, t, reviews=level < deepest) for level, (s, t) in levels)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`reviewkd_loss` of the fused maps: a scalar in squared units of the maps."""
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
