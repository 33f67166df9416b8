"""OFD (Heo et al. 2019, arXiv:1904.01866): partial distance to the teacher's maps before the ReLU."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller, sum_by_depth

SCALE = 1 / 1000
"""Factor of the sums over whole maps in the authors' CIFAR-100 code (1/10000 on ImageNet)."""


def ofd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Return the partial squared distance of the maps, summed over stages.

    The term of stage l = 0 ... n - 1 is 1/1000 * 2^(l - n + 1) * sum((s - t')^2 where s > t' or t' > 0) / N,
    with t' = max(t, margin).

    Args:
        student: One map [N, C, H, W] per stage before its ReLU, the deepest (factor 1) last, after the
            connectors: the shapes are those of the teacher's maps.
        teacher: The teacher's maps [N, C, H, W] before the ReLU, in the same order.
        margins: One tensor [C] per stage.

    Returns:
        A scalar in squared units of the maps: a sum over channels and positions, averaged over rows.

    Raises:
        ValueError: If the lists differ in length.
    """
    return SCALE * sum_by_depth([_partial(*stage) for stage in zip(student, teacher, margins, strict=True)])


def _partial(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return the partial distance of one stage; a student below a non-positive target costs nothing."""
    target = torch.maximum(teacher, margin[:, None, None])
    excess = student - target
    return torch.where(target > 0, excess, F.relu(excess)).square().sum() / len(student)


def margins_of(norm: nn.BatchNorm2d) -> Tensor:
    """Return E[x | x < 0] of each channel before a ReLU.

    x is normal with the norm's bias as mean and |weight| as deviation.

    Where less than a thousandth of x is negative the margin is -3 |weight|, as in the authors' code. Computed
    in float64.

    Args:
        norm: The BatchNorm before a ReLU of the teacher, with C channels.

    Returns:
        Margins [C], at most 0.
    """
    # a channel of weight 0 is constant; the clamp gives the limit of the formula
    deviation, mean = norm.weight.detach().double().abs().clamp(min=1e-30), norm.bias.detach().double()
    negative = torch.special.ndtr(-mean / deviation)
    density = torch.exp(-((mean / deviation).square()) / 2) / math.sqrt(2 * math.pi)
    expected = mean - deviation * density / negative.clamp(min=1e-3)
    return torch.where(negative > 1e-3, expected, -3 * deviation).to(norm.weight.dtype)


def _connector(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class OFD(Objective):
    """`ofd_loss` over all stages, with margins from the teacher's BatchNorms.

    Where two maps differ in size, the larger is averaged down before the connector and the margin. `setup`
    raises ValueError for a teacher that does not name the BatchNorms of its stages.
    """

    paper = Paper("A Comprehensive Overhaul of Feature Distillation", 2019, "1904.01866")
    formula = "sum over stages of 1/1000 * 2^(l-n+1) * sum((s - max(t, m))^2 [s > max(t, m) or t > 0]) / N"
    defaults_from = "the authors' CIFAR-100 code: all stages"
    high_cost = "a 1x1 convolution with BatchNorm on every stage"
    disagreements = (
        "mdistiller leaves the teacher in training mode; the authors' code and kdbench evaluate it.",
        "In residual networks the margins come from the last block's branch alone, without its shortcut, "
        "although the ReLU sees the sum; this follows the authors' code.",
        "The authors' code does not handle maps of two sizes; kdbench averages the larger one.",
    )
    needs = ("features", "teacher weights")
    student_features = teacher_features = ("stage*.pre",)

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create a connector and the margins for each stage.

        Raises:
            ValueError: If the teacher does not name the BatchNorm of a stage.
        """
        accessor = getattr(teacher, "stage_norms", None)
        norms: dict[str, nn.BatchNorm2d] = accessor() if callable(accessor) else {}
        stages = [feature.removesuffix(".pre") for feature in self.teacher_features]
        if missing := [stage for stage in stages if stage not in norms]:
            raise ValueError(
                f"OFD: the margins come from the BatchNorms before the teacher's ReLUs, and {type(teacher).__name__} "
                f"names none for {', '.join(missing)}; choose a resnet, wrn, vgg or ShuffleV1 of kdbench as teacher"
            )
        ours = [feature.shape[1] for feature in probes.student.select_features(self.student_features)]
        theirs = [feature.shape[1] for feature in probes.teacher.select_features(self.teacher_features)]
        self.connectors = nn.ModuleList(map(_connector, ours, theirs))
        for number, stage in enumerate(stages):
            self.register_buffer(f"margin{number}", margins_of(norms[stage]))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `ofd_loss` of the connected maps: a scalar in squared units of the maps."""
        features = zip(
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
            strict=True,
        )
        ours, theirs = zip(*(pool_to_smaller(s, t) for s, t in features), strict=True)
        connected = [connect(feature) for connect, feature in zip(self.connectors, ours, strict=True)]
        return ofd_loss(connected, theirs, [self.get_buffer(f"margin{n}") for n in range(len(theirs))])
