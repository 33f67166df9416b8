"""ITRD (Miles et al. 2022, arXiv:2112.00459): correlation and mutual information of pooled features."""

from __future__ import annotations

import math

from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors
from kdbench.utils.validation import check_between, check_non_negative

SMALLEST_DEVIATION = 1e-6
"""Lower bound of a feature's standard deviation; a constant feature has correlation 0."""


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float = 1.5) -> Tensor:
    """Return log2 of sum over features of |c_d - 1|^(2 alpha).

    c_d is the correlation of feature d over the batch.

    Deviations are unbiased (N - 1) but c sums over N, so c <= (N - 1) / N, the sum is at least D / N^(2
    alpha), and its logarithm is finite. One row has c = 0 and the value log2 D.

    Args:
        student: Vectors [N, D].
        teacher: Vectors [N, D].
        alpha: Exponent; 1.5 in the authors' code.

    Returns:
        A scalar in bits; negative where the sum is below 1.
    """
    correlation = (_standardised(student) * _standardised(teacher)).mean(dim=0)
    return (1 - correlation).abs().pow(2 * alpha).sum().log2()


def _standardised(vectors: Tensor) -> Tensor:
    centred = vectors - vectors.mean(dim=0)
    deviation = vectors.std(dim=0, correction=min(1, len(vectors) - 1))
    return centred / deviation.clamp(min=SMALLEST_DEVIATION)


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over pairs of rows of G_s^2 - G_st^2.

    G_s and G_t are Gram matrices of unit rows, and G_st = G_s * G_t elementwise. G_s and G_st are scaled to
    trace 1; G_t is not scaled before the product. A trace is at least 1e-12, so the value is 0 where all rows
    of a side are 0.

    Args:
        student: Vectors [N, D_s].
        teacher: Vectors [N, D_t].

    Returns:
        A dimensionless scalar.
    """
    ours, theirs = unit_vectors(student), unit_vectors(teacher)
    own = ours @ ours.mT
    joint = own * (theirs @ theirs.mT)
    return _of_unit_trace(own).square().sum() - _of_unit_trace(joint).square().sum()


def _of_unit_trace(gram: Tensor) -> Tensor:
    return gram / gram.trace().clamp(min=1e-12)


def itrd_loss(
    student: Tensor,
    teacher: Tensor,
    embedded: Tensor,
    alpha: float = 1.5,
    corr_weight: float = 2.0,
    mi_weight: float = 1.0,
) -> Tensor:
    """Return the weighted sum of `correlation_loss` and `mutual_loss`.

    Args:
        student: The student's vectors [N, D_s].
        teacher: The teacher's vectors [N, D].
        embedded: The student's vectors, brought to the teacher's width [N, D].
        alpha: Exponent of the correlation loss.
        corr_weight: Weight of the correlation loss.
        mi_weight: Weight of the mutual loss.

    Returns:
        A scalar.
    """
    correlation = correlation_loss(embedded, teacher, alpha)
    return corr_weight * correlation + mi_weight * mutual_loss(student, teacher)


class ITRD(Objective):
    """`itrd_loss` of the pooled features, with a linear layer from the student's width to the teacher's.

    Args:
        alpha: Exponent of the correlation loss.
        corr_weight: Weight of the correlation loss.
        mi_weight: Weight of the mutual loss.

    Raises:
        ValueError: If `alpha` is not finite and above 0.5, or a weight is negative or not finite.
    """

    paper = Paper("Information Theoretic Representation Distillation", 2022, "2112.00459")
    formula = (
        "w_c log2 sum_d |c_d - 1|^(2 alpha) + w_m sum (G_s^2 - G_st^2), G_s and G_st = G_s * G_t of trace 1"
    )
    defaults_from = (
        "the authors' code: alpha 1.5 (1.01 where both networks belong to one family), weights 2 and 1"
    )
    disagreements = (
        "As in the code, deviations divide by N - 1 but correlations by N, so no correlation reaches 1.",
        "As in the code, the mutual term takes the student's own features where both widths are equal, and "
        "the output of the linear layer otherwise.",
    )
    needs = ("pooled",)
    student_features = teacher_features = ("pooled",)
    couples_rows = True
    depends_on_batch_size = True

    def __init__(self, alpha: float = 1.5, corr_weight: float = 2.0, mi_weight: float = 1.0) -> None:
        super().__init__()
        check_between("ITRD", 0.5, math.inf, closed="neither", alpha=alpha)
        check_non_negative("ITRD", corr_weight=corr_weight, mi_weight=mi_weight)
        self.alpha, self.corr_weight, self.mi_weight = alpha, corr_weight, mi_weight

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the linear layer."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.embedding = nn.Linear(ours.shape[1], theirs.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `itrd_loss` of the pooled features: a scalar."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        embedded = self.embedding(ours)
        compared = ours if ours.shape == theirs.shape else embedded
        return itrd_loss(compared, theirs, embedded, self.alpha, self.corr_weight, self.mi_weight)
