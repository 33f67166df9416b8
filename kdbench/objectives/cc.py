"""CC, Peng et al. 2019, arXiv:1904.01802: sum_d |e_s - e_t|[i,d] |e_s - e_t|[i+1,d], mean over neighbours."""

from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The inner product of the absolute differences of each row and the next, mean over the N - 1 neighbours.

    student, teacher: embedded vectors [N, D]. Returns a scalar in squared units of the embedding; 0 for N = 1.
    """
    difference = (student - teacher).abs()
    neighbours = (difference[:-1] * difference[1:]).sum()
    return neighbours / max(len(student) - 1, 1)


class CC(Objective):
    """`cc_loss` of linear embeddings of the pooled features, learned on both sides.

    dimension: D of the embeddings. Raises ValueError unless dimension >= 1.
    """

    paper = Paper("Correlation Congruence for Knowledge Distillation", 2019, "1904.01802")
    formula = "mean over i < N of sum_d D[i,d] D[i+1,d], D = |W_s f_s + b_s - W_t f_t - b_t|"
    defaults_from = "RepDistiller: embeddings of 128"
    disagreements = (
        "The paper compares kernel correlations (Gaussian, by a Taylor series) of all pairs of rows; RepDistiller, "
        "with code that it has from the paper's author, and this file the products of neighbouring rows.",
        "The mean is over the N - 1 neighbours, so three copies of a batch are not worth the batch.",
        "One row has no neighbour: 0 here, nan in RepDistiller.",
    )
    needs = ("pooled",)
    student_features = teacher_features = ("pooled",)
    couples_rows = True
    order_dependent = True

    def __init__(self, dimension: int = 128) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(f"CC: dimension must be 1 or more, got {dimension}")
        self.dimension = dimension

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the two linear layers."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.student_embedding = nn.Linear(ours.shape[1], self.dimension)
        self.teacher_embedding = nn.Linear(theirs.shape[1], self.dimension)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`cc_loss` of the embedded vectors: a scalar in squared units of the embedding."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        return cc_loss(self.student_embedding(ours), self.teacher_embedding(theirs))
