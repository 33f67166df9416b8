"""CC, correlation congruence (Peng et al. 2019, arXiv:1904.01802), as RepDistiller computes it."""

from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.utils.validation import check_at_least


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the inner product of |student - teacher| of each row and the next, averaged over neighbours.

    Args:
        student: Embedded vectors [N, D].
        teacher: Embedded vectors [N, D].

    Returns:
        A scalar in squared units of the embedding; 0 for N = 1.
    """
    difference = (student - teacher).abs()
    neighbours = (difference[:-1] * difference[1:]).sum()
    return neighbours / max(len(student) - 1, 1)


class CC(Objective):
    """`cc_loss` of linear embeddings of the pooled features, learned on both sides.

    Args:
        dimension: D, the width of the embeddings.

    Raises:
        ValueError: If `dimension` is below 1.
    """

    paper = Paper("Correlation Congruence for Knowledge Distillation", 2019, "1904.01802")
    formula = "mean over i < N of sum_d D[i,d] D[i+1,d], D = |W_s f_s + b_s - W_t f_t - b_t|"
    defaults_from = "RepDistiller: embeddings of width 128"
    disagreements = (
        "The paper compares kernel correlations (Gaussian, by a Taylor series) of all pairs of rows. "
        "RepDistiller, whose code comes from the paper's author, and kdbench compare products of "
        "neighbouring rows.",
        "The mean is over the N - 1 neighbours, so three copies of a batch do not have the value of one "
        "copy.",
        "One row has no neighbour: 0 here, NaN in RepDistiller.",
    )
    needs = ("pooled",)
    student_features = teacher_features = ("pooled",)
    couples_rows = True
    order_dependent = True

    def __init__(self, dimension: int = 128) -> None:
        super().__init__()
        check_at_least("CC", 1, dimension=dimension)
        self.dimension = dimension

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the two linear layers."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.student_embedding = nn.Linear(ours.shape[1], self.dimension)
        self.teacher_embedding = nn.Linear(theirs.shape[1], self.dimension)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `cc_loss` of the embedded vectors: a scalar in squared units of the embedding."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return cc_loss(self.student_embedding(ours), self.teacher_embedding(theirs))
