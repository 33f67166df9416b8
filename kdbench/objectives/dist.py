"""DIST (Huang et al. 2022, arXiv:2205.10536): Pearson correlation of softmaxes over rows and over classes."""

from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import softmax_correlation
from kdbench.utils.validation import check_non_negative, check_positive


def dist_loss(
    student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0
) -> Tensor:
    """Return T^2 * (beta * inter + gamma * intra), where each term is 1 minus a mean Pearson correlation.

    `inter` correlates the C classes of each row, `intra` the N rows of each class (correlation 0 for N = 1).
    The factor T^2 is in the official code but not in the paper's formula.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        beta: Weight of `inter`.
        gamma: Weight of `intra`.
        temperature: T, which divides the logits of both sides.

    Returns:
        A dimensionless scalar.
    """
    student, teacher = student / temperature, teacher / temperature
    inter = 1 - softmax_correlation(student, teacher, dim=1).mean()
    intra = 1 - softmax_correlation(student, teacher, dim=0).mean()
    return temperature**2 * (beta * inter + gamma * intra)


class DIST(Objective):
    """`dist_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `temperature` is not positive and finite, or `beta` or `gamma` is negative or not
            finite.
    """

    paper = Paper("Knowledge Distillation from A Stronger Teacher", 2022, "2205.10536")
    formula = (
        "T^2 (beta (1 - mean rho of rows) + gamma (1 - mean rho of classes)), rho = Pearson of q_T and p_T"
    )
    defaults_from = "the authors' CIFAR-100 runs (beta = gamma = 1, T = 4); their ImageNet runs use T = 1"
    disagreements = (
        "The official code multiplies by T^2, the paper's formula does not. kdbench follows the code; "
        "dividing the recipe's weight by T^2 (16 at T = 4) gives the paper's loss.",
    )
    couples_rows = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0) -> None:
        super().__init__()
        check_positive("DIST", temperature=temperature)
        check_non_negative("DIST", beta=beta, gamma=gamma)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `dist_loss` of the logits: a dimensionless scalar."""
        return dist_loss(student.logits, teacher.logits, self.beta, self.gamma, self.temperature)
