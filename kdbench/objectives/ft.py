"""FT, factor transfer (Kim et al. 2018, arXiv:1802.04977): attention maps of learned factors of both sides."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller, unit_vectors
from kdbench.utils.validation import check_at_least, check_choice

PHASES = ("transfer", "paraphrase")


def ft_loss(student: Tensor, teacher: Tensor, p1: float = 2.0, p2: float = 1.0) -> Tensor:
    """Return the mean over rows and positions of |A_s - A_t|^p2, with A = unit(mean_c |F|^p1).

    Args:
        student: The student's factor [N, C, H, W]. Channels and sizes may differ from the teacher's; the
            larger map is averaged down to the size of the smaller one.
        teacher: The teacher's factor [N, C, H, W].
        p1: Power of the activations.
        p2: Power of the differences.

    Returns:
        A dimensionless scalar.
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
    """Return the auto-encoder [encoder, decoder]; its code, half as wide, is the teacher's factor."""
    half = channels // 2
    return nn.Sequential(
        _layers(nn.Conv2d, channels, channels, half, half),
        _layers(nn.ConvTranspose2d, half, half, channels, channels),
    )


class FT(Objective):
    """`ft_loss` of the deepest stage, between a translation of the student's map and a code of the teacher's.

    Args:
        phase: `paraphrase` is the first stage, which trains the auto-encoder of the teacher's map by its
            squared error. `transfer` follows, takes over its weights and freezes them.
        p1: Power of the activations.
        p2: Power of the differences.

    Raises:
        ValueError: If `phase` is unknown, or `p1` or `p2` is below 1 or not finite.
    """

    paper = Paper("Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018, "1802.04977")
    formula = "mean |A(T(F_s)) - A(P(F_t))|^p2, A = unit(mean_c |F|^p1), P and T three convolutions each"
    defaults_from = "RepDistiller: p1 = 2, p2 = 1, the deepest stage"
    high_cost = "a frozen auto-encoder on the teacher's map and a translator: six and three 3x3 convolutions"
    disagreements = (
        "The paper normalises the whole factor and takes the L1 norm of the difference. RepDistiller and "
        "kdbench take the mean over channels of its square first, which the published weight of 200 belongs "
        "to.",
        "RepDistiller raises signed values to the power p1, kdbench absolute values; the two agree for even "
        "p1.",
    )
    needs = ("features",)
    student_features: tuple[str, ...] = ("stage-1",)
    teacher_features = ("stage-1",)

    def __init__(self, phase: str = "transfer", p1: float = 2.0, p2: float = 1.0) -> None:
        super().__init__()
        check_choice("FT", PHASES, phase=phase)
        check_at_least("FT", 1, p1=p1, p2=p2)
        self.p1, self.p2 = p1, p2
        self.needs_student = phase == "transfer"
        if not self.needs_student:
            self.student_features = ()

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the paraphraser and, for the phase `transfer`, the translator to the width of its code."""
        (theirs,) = probes.teacher.select_features(self.teacher_features)
        # created first in both phases: `transfer` loads the weights that `paraphrase` trained
        self.paraphraser = _paraphraser(theirs.shape[1])
        if self.needs_student:
            self.paraphraser.requires_grad_(False)
            (ours,) = probes.student.select_features(self.student_features)
            channels, half = ours.shape[1], theirs.shape[1] // 2
            self.translator = _layers(nn.Conv2d, channels, channels, half, half, normed=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `ft_loss` of the two factors: a dimensionless scalar.

        In the phase `paraphrase`, return the mean squared error of the reconstructed teacher's map.
        """
        (theirs,) = teacher.select_features(self.teacher_features)
        if not self.needs_student:
            return F.mse_loss(self.paraphraser(theirs), theirs)
        (ours,) = student.select_features(self.student_features)
        with torch.no_grad():
            factor = self.paraphraser[0](theirs)
        return ft_loss(self.translator(ours), factor, self.p1, self.p2)
