"""DIST, Huang et al. 2022, arXiv:2205.10536: beta (1 - rho over classes) + gamma (1 - rho over rows)."""

import math

from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import softmax_correlation


def dist_loss(
    student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0
) -> Tensor:
    """T^2 * (beta * inter + gamma * intra): one minus the mean Pearson correlation of softened softmaxes.

    student, teacher: logits [N, C]. Returns a dimensionless scalar.
    inter correlates the C classes of each row, intra the N rows of each class (0 correlation for N = 1).
    T^2 is the official code's; the paper's formula has none.
    """
    student, teacher = student / temperature, teacher / temperature
    inter = 1 - softmax_correlation(student, teacher, dim=1).mean()
    intra = 1 - softmax_correlation(student, teacher, dim=0).mean()
    return temperature**2 * (beta * inter + gamma * intra)


class DIST(Objective):
    """`dist_loss` as an objective.

    Raises ValueError unless 0 < temperature < inf and 0 <= beta, gamma < inf.
    """

    paper = Paper("Knowledge Distillation from A Stronger Teacher", 2022, "2205.10536")
    formula = (
        "T^2 (beta (1 - mean rho of rows) + gamma (1 - mean rho of classes)), rho = Pearson of q_T and p_T"
    )
    defaults_from = "the authors' CIFAR-100 runs (beta = gamma = 1, T = 4); their ImageNet runs use T = 1"
    disagreements = (
        "The official code multiplies by T^2, the paper's formula does not: here as in the code; a recipe whose "
        "weight is divided by T^2 (16 at T = 4) has the paper's.",
    )
    couples_rows = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"DIST: temperature must be positive and finite, got {temperature}")
        for name, value in (("beta", beta), ("gamma", gamma)):
            if not 0 <= value < math.inf:
                raise ValueError(f"DIST: {name} must be finite and not negative, got {value}")
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`dist_loss` of the logits: a dimensionless scalar."""
        return dist_loss(student.logits, teacher.logits, self.beta, self.gamma, self.temperature)
