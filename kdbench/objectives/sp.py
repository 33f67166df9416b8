"""SP, similarity-preserving distillation (Tung and Mori 2019, arXiv:1907.09682)."""

from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared Frobenius distance of the two similarity matrices, divided by N^2.

    The rows of a similarity matrix have unit length for any N, so the value falls as 1 / N.

    Args:
        student: Features [N, ...], which are flattened.
        teacher: Features [N, ...]; all dimensions but N may differ from the student's.

    Returns:
        A dimensionless scalar.
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
        "As in RepDistiller, only the deepest stage is compared, not a selection of stages.",
        "The division by N^2 also follows RepDistiller: a batch repeated three times has a third of the "
        "value.",
    )
    needs = ("features",)
    student_features = teacher_features = ("stage-1",)
    couples_rows = True
    depends_on_batch_size = True

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `sp_loss` of the deepest maps: a dimensionless scalar."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return sp_loss(ours, theirs)
