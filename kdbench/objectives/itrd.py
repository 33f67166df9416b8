"""ITRD, Miles et al. 2022, arXiv:2112.00459: 2 log2 sum_d |c_d - 1|^(2 alpha) + sum (G_s^2 - G_st^2)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors

SMALLEST_DEVIATION = 1e-6
"""What a feature's standard deviation counts as at least: one that is the same in all rows correlates 0."""


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float = 1.5) -> Tensor:
    """log2 of sum over features of |c_d - 1|^(2 alpha), c_d the correlation of feature d over the batch.

    student, teacher: vectors [N, D]. Returns a scalar in bits; negative where the sum is below 1.
    Deviations are unbiased (N - 1) and c sums over N, so c <= (N - 1) / N: the sum is at least D / N^(2 alpha)
    and its logarithm finite. One row has c = 0, and the value log2 D.
    """
    correlation = (_standardised(student) * _standardised(teacher)).mean(dim=0)
    return (1 - correlation).abs().pow(2 * alpha).sum().log2()


def _standardised(vectors: Tensor) -> Tensor:
    centred = vectors - vectors.mean(dim=0)
    deviation = vectors.std(dim=0, correction=min(1, len(vectors) - 1))
    return centred / deviation.clamp(min=SMALLEST_DEVIATION)


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum over pairs of rows of G_s^2 - G_st^2: Gram matrices of unit rows, G_st = G_s * G_t, of trace 1.

    student, teacher: vectors [N, D_s], [N, D_t]. Returns a dimensionless scalar.
    G_t is not divided by its trace before the product. A trace counts as 1e-12 at least: 0 where all rows of
    a side are 0.
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
    """corr_weight * `correlation_loss`(embedded, teacher) + mi_weight * `mutual_loss`(student, teacher).

    student: vectors [N, D_s]; teacher and embedded (the student's, brought to the teacher's width): [N, D].
    """
    correlation = correlation_loss(embedded, teacher, alpha)
    return corr_weight * correlation + mi_weight * mutual_loss(student, teacher)


class ITRD(Objective):
    """`itrd_loss` of the pooled features, with a linear layer from the student's width to the teacher's.

    Raises ValueError unless 0.5 < alpha < inf and 0 <= corr_weight, mi_weight < inf.
    """

    paper = Paper("Information Theoretic Representation Distillation", 2022, "2112.00459")
    formula = (
        "w_c log2 sum_d |c_d - 1|^(2 alpha) + w_m sum (G_s^2 - G_st^2), G_s and G_st = G_s * G_t of trace 1"
    )
    defaults_from = (
        "The authors' code: alpha 1.5 (1.01 where both networks are of one family), weights 2 and 1"
    )
    disagreements = (
        "As in the code, deviations divide by N - 1 but correlations by N, so no correlation reaches 1.",
        "As in the code, the mutual term sees the student's own features where both widths are equal, and the "
        "linear layer's otherwise.",
    )
    needs = ("pooled",)
    student_features = teacher_features = ("pooled",)
    couples_rows = True
    depends_on_batch_size = True

    def __init__(self, alpha: float = 1.5, corr_weight: float = 2.0, mi_weight: float = 1.0) -> None:
        super().__init__()
        if not 0.5 < alpha < math.inf:
            raise ValueError(f"ITRD: alpha must be finite and above 0.5, got {alpha}")
        for name, value in (("corr_weight", corr_weight), ("mi_weight", mi_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"ITRD: {name} must be finite and not negative, got {value}")
        self.alpha, self.corr_weight, self.mi_weight = alpha, corr_weight, mi_weight

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the linear layer."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.embedding = nn.Linear(ours.shape[1], theirs.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`itrd_loss` of the pooled features: a scalar."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        embedded = self.embedding(ours)
        compared = ours if ours.shape == theirs.shape else embedded
        return itrd_loss(compared, theirs, embedded, self.alpha, self.corr_weight, self.mi_weight)
