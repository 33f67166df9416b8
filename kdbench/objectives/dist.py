"""DIST, Huang et al. 2022, arXiv:2205.10536: beta (1 - rho over classes) + gamma (1 - rho over rows)."""

import math

import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from kdbench.core import Batch, Objective, Outputs, Paper


def dist_loss(
    student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0
) -> Tensor:
    """T^2 * (beta * inter + gamma * intra): one minus the mean Pearson correlation of softened softmaxes.

    student, teacher: logits [N, C]. Returns a dimensionless scalar.
    inter correlates the C classes of each row, intra the N rows of each class (0 correlation for N = 1).
    T^2 is the official code's; the paper's formula has none.
    """
    q, p = _corner_and_rest(student / temperature), _corner_and_rest(teacher / temperature)
    inter = 1 - _pearson(q, p, dim=1).mean()
    intra = 1 - _pearson(q, p, dim=0).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _corner_and_rest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax as a sum: 1 for the class with more than half of a row (if any), and the rest; each [N, C].

    Near 1, float32 does not resolve how a class that is certain in every row differs between the rows.
    """
    probabilities = F.softmax(logits, dim=-1)
    corner = (probabilities > 0.5).to(logits.dtype)
    others = (1 - corner) * probabilities
    return corner, others - corner * others.sum(dim=-1, keepdim=True)


def _pearson(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """Correlation of the two sums along `dim`; 0 where one of them is constant."""
    a, b = _centred(*q, dim), _centred(*p, dim)
    norms: Tensor = vector_norm(a, dim=dim) * vector_norm(b, dim=dim)
    return (a * b).sum(dim=dim) / (norms + 1e-8)


def _centred(corner: Tensor, rest: Tensor, dim: int) -> Tensor:
    return (corner - corner.mean(dim=dim, keepdim=True)) + (rest - rest.mean(dim=dim, keepdim=True))


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
        "The official code multiplies by T^2, the paper's formula does not; here it is the code's, and a recipe's "
        "weight divided by T^2 gives the paper's.",
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
