"""SP, Tung and Mori 2019, arXiv:1907.09682: ||G_s - G_t||^2 / N^2, G = F F^T with rows of unit length."""

from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared Frobenius distance of the two similarity matrices, over N^2.

    student, teacher: features [N, ...], one of each side; they are flattened, and may differ in all but N.
    Returns a dimensionless scalar. The rows of G have unit length whatever N is, so the value falls as 1 / N.
    """
    return (_similarity(student) - _similarity(teacher)).square().mean()


def _similarity(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return unit_vectors(flat @ flat.mT)


class SP(Objective):
    """`sp_loss` of the deepest stage as an objective."""

    paper = Paper("Similarity-Preserving Knowledge Distillation", 2019, "1907.09682")
    formula = "||G_s - G_t||_F^2 / N^2, G = F F^T [N, N] with rows of unit length"
    defaults_from = "RepDistiller: the deepest stage"
    disagreements = (
        "As in RepDistiller, the deepest stage alone is compared, not a choice of stages.",
        "The division by N^2 is RepDistiller's too: a batch repeated three times is worth a third.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage-1",)
    couples_rows = True
    depends_on_batch_size = True

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`sp_loss` of the deepest maps: a dimensionless scalar."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return sp_loss(ours, theirs)
