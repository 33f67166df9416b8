"""FT, factor transfer, Kim et al. 2018, arXiv:1802.04977: |A(T(F_s)) - A(P(F_t))|, A = unit(mean_c F^2)."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller, unit_vectors

PHASES = ("transfer", "paraphrase")


def ft_loss(student: Tensor, teacher: Tensor, p1: float = 2.0, p2: float = 1.0) -> Tensor:
    """The mean over rows and positions of |A_s - A_t|^p2, A = unit(mean over channels of |F|^p1).

    student, teacher: factors [N, C, H, W] of the two sides; channels and sizes may differ, and the larger map
    is averaged down to the smaller one first. Returns a dimensionless scalar.
    """
    student, teacher = pool_to_smaller(student, teacher)
    difference = _attention(student, p1) - _attention(teacher, p1)
    return difference.abs().pow(p2).mean()


def _attention(factor: Tensor, p1: float) -> Tensor:
    return unit_vectors(factor.abs().pow(p1).mean(dim=1).flatten(1))


def _layers(convolution: Callable[..., nn.Module], *widths: int, normed: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        norm = [nn.BatchNorm2d(outputs)] if normed else []
        layers += [convolution(inputs, outputs, 3, padding=1), *norm, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


def _paraphraser(channels: int) -> nn.Sequential:
    """Two parts, encoder and decoder; the code between them, half as wide, is the teacher's factor."""
    half = channels // 2
    return nn.Sequential(
        _layers(nn.Conv2d, channels, channels, half, half),
        _layers(nn.ConvTranspose2d, half, half, channels, channels),
    )


class FT(Objective):
    """`ft_loss` of the deepest stage, between a learned translation of the student's map and a frozen code of
    the teacher's.

    phase: `paraphrase` is the first stage, which trains the auto-encoder of the teacher's map that the code
    comes from, by its squared error; `transfer` is what follows, and takes over its weights.
    Raises ValueError for another phase, or unless 1 <= p1, p2 < inf.
    """

    paper = Paper("Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018, "1802.04977")
    formula = "mean |A(T(F_s)) - A(P(F_t))|^p2, A = unit(mean_c |F|^p1), P and T three convolutions each"
    defaults_from = "RepDistiller: p1 = 2, p2 = 1, the deepest stage"
    disagreements = (
        "The paper normalises the whole factor and takes the L1 norm of the difference; RepDistiller and this "
        "file the mean over channels of its square first, which the published weight of 200 belongs to.",
        "RepDistiller raises signed values to the power p1, this file absolute ones: the same where p1 is even.",
    )
    needs = ("features",)
    student_features: tuple[str, ...] = ("stage-1",)
    teacher_features = ("stage-1",)

    def __init__(self, phase: str = "transfer", p1: float = 2.0, p2: float = 1.0) -> None:
        super().__init__()
        if phase not in PHASES:
            raise ValueError(f"FT: phase must be {' or '.join(PHASES)}, got {phase!r}")
        for name, value in (("p1", p1), ("p2", p2)):
            if not 1 <= value < math.inf:
                raise ValueError(f"FT: {name} must be at least 1 and finite, got {value}")
        self.p1, self.p2 = p1, p2
        self.needs_student = phase == "transfer"
        if not self.needs_student:
            self.student_features = ()

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the paraphraser, and for the transfer the translator to its code's width."""
        (theirs,) = probes.teacher.select_features(self.teacher_features)
        # first, and the same in both phases: the second loads what the first has learned
        self.paraphraser = _paraphraser(theirs.shape[1])
        if self.needs_student:
            self.paraphraser.requires_grad_(False)
            (ours,) = probes.student.select_features(self.student_features)
            channels, half = ours.shape[1], theirs.shape[1] // 2
            self.translator = _layers(nn.Conv2d, channels, channels, half, half, normed=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`ft_loss` of the two factors, dimensionless; in the phase `paraphrase` the mean squared error of the
        reconstructed teacher's map."""
        (theirs,) = teacher.select_features(self.teacher_features)
        if not self.needs_student:
            return F.mse_loss(self.paraphraser(theirs), theirs)
        (ours,) = student.select_features(self.student_features)
        with torch.no_grad():
            factor = self.paraphraser[0](theirs)
        return ft_loss(self.translator(ours), factor, self.p1, self.p2)
