"""PKT, probabilistic knowledge transfer (Passalis and Tefas 2018, arXiv:1803.10837)."""

from torch import Tensor
from torch.linalg import vector_norm

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs

EPSILON = 1e-7
"""Added to each norm, and to each probability before its logarithm."""


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over N * N of t * log((t + 1e-7) / (s + 1e-7)).

    t and s are the neighbour probabilities of teacher and student.

    The divergence of each row is a sum over N neighbours and is divided by N once more, so the value falls as
    1 / N.

    Args:
        student: Vectors [N, D].
        teacher: Vectors [N, D]; D may differ from the student's.

    Returns:
        A scalar in nats per pair of rows.
    """
    s, t = _neighbours(student), _neighbours(teacher)
    return (t * ((t + EPSILON).log() - (s + EPSILON).log())).mean()


def _neighbours(rows: Tensor) -> Tensor:
    """Return (cosine + 1) / 2 of each pair over the sum of its row, itself included: [N, D] -> [N, N]."""
    norm: Tensor = vector_norm(rows, dim=1, keepdim=True)
    # Without the mask a row of zeros would have 1e7 times the gradient of others.
    directions = rows / (norm + EPSILON).masked_fill(norm == 0, 1.0)
    # Rounding alone can take the similarity of opposite rows below 0.
    similarity = ((directions @ directions.mT + 1) / 2).clamp(min=0.0)
    return similarity / similarity.sum(dim=1, keepdim=True)


class PKT(Objective):
    """`pkt_loss` of the pooled features as an objective."""

    paper = Paper("Learning Deep Representations with Probabilistic Knowledge Transfer", 2018, "1803.10837")
    formula = "mean over N^2 of t log(t / s), s and t = (cos + 1) / 2 of each pair over the sum of its row"
    defaults_from = "RepDistiller"
    disagreements = (
        "The paper sums the divergences. RepDistiller and kdbench take the mean over N^2, which the "
        "published weight of 30000 belongs to; a batch repeated three times has a third of the value.",
        "A row of zeros has cosine 0 with every row, itself included, as in RepDistiller; there the gradient"
        " of such a row's norm is NaN, here it is 0.",
    )
    needs = ("pooled",)
    student_features = teacher_features = ("pooled",)
    couples_rows = True
    depends_on_batch_size = True

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `pkt_loss` of the pooled features: a scalar in nats per pair of rows."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return pkt_loss(ours, theirs)
