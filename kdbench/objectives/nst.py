"""NST, neuron selectivity transfer (Huang and Wang 2017, arXiv:1707.01219): squared MMD of channel maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import pool_to_smaller, unit_vectors


def nst_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return mean k(t, t) + mean k(s, s) - 2 mean k(s, t), summed over stages.

    The means are over pairs of channels, and then over rows.

    A channel is the unit vector of its positions, and the kernel is k(a, b) = (a . b)^2.

    Args:
        student: One map [N, C, H, W] per stage. Channels and sizes may differ from the teacher's; the larger
            map is averaged down to the size of the smaller one.
        teacher: The teacher's maps, in the same order.

    Returns:
        A dimensionless scalar.

    Raises:
        ValueError: If one side has more stages.
    """
    pairs = [pool_to_smaller(s, t) for s, t in zip(student, teacher, strict=True)]
    return torch.stack([_discrepancy(s.flatten(2), t.flatten(2)) for s, t in pairs]).sum()


def _discrepancy(s: Tensor, t: Tensor) -> Tensor:
    """Return the MMD of maps [N, C, P].

    It comes from whichever Gram matrices are smaller: of positions or of channels.
    """
    if s.shape[2] <= max(s.shape[1], t.shape[1]):
        # With M = mean_c a a^T, the mean of (a . b)^2 is <M_s, M_t>, and the three means sum to ||M_s - M_t||^2.
        return (_second_moment(s) - _second_moment(t)).square().sum(dim=(1, 2)).mean()
    ss, tt = s @ s.mT, t @ t.mT
    a, b = _inverse_norms(ss), _inverse_norms(tt)
    return _kernel(tt, b, b) + _kernel(ss, a, a) - 2 * _kernel(s @ t.mT, a, b)


def _second_moment(channels: Tensor) -> Tensor:
    directions = unit_vectors(channels)
    return directions.mT @ directions / channels.shape[1]


def _inverse_norms(gram: Tensor) -> Tensor:
    """Return the inverse channel norms [N, C, 1] of Gram matrices [N, C, C]; 1 for norms below 1e-12."""
    squares = gram.diagonal(dim1=1, dim2=2)[..., None]
    return squares.masked_fill(squares < 1e-24, 1.0).rsqrt()


def _kernel(products: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (products * a * b.mT).square().mean()


class NST(Objective):
    """`nst_loss` over all stages as an objective."""

    paper = Paper("Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, "1707.01219")
    formula = "sum over stages of mean k(t, t) + mean k(s, s) - 2 mean k(s, t), k(a, b) = (a . b)^2"
    defaults_from = "RepDistiller: all stages, the polynomial kernel"
    disagreements = (
        "The paper tries several kernels; RepDistiller and kdbench implement the polynomial one, (a . b)^2.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage*",)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `nst_loss` of the stages: a dimensionless scalar."""
        return nst_loss(
            student.select_features(self.student_features), teacher.select_features(self.teacher_features)
        )
