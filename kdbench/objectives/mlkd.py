"""MLKD, Jin et al. 2023 (CVPR): KL, class and batch correlations of a weak and a strong view at five temperatures."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.functional.divergences import standardise as z_scores

TEMPERATURES: Sequence[float] = [4.0, 3.0, 5.0, 2.0, 6.0]
"""The published ones, the base temperature first."""

Views = tuple[Tensor, Tensor]
"""One side's logits [N, C] of the weak and of the strong view."""


def mlkd_loss(
    student: Views,
    teacher: Views,
    target: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    faithful: bool = False,
    standardise: bool = False,
    strong_ce: float = 1 / 9,
) -> Tensor:
    """The three `mlkd_terms` and strong_ce times the student's cross-entropy on the strong view.

    student, teacher: pairs of logits [N, C], of the weak and the strong view; target: class indices [N]. Returns a
    scalar. The cross-entropy is in here because a recipe's `ce` sees the weak view alone: beside `ce` with weight w,
    strong_ce = w / (weight of this term) gives both views the weight w.
    """
    terms = mlkd_terms(student, teacher, temperatures, faithful, standardise)
    return sum(terms, strong_ce * F.cross_entropy(student[1], target))


def mlkd_terms(
    student: Views,
    teacher: Views,
    temperatures: Sequence[float] = TEMPERATURES,
    faithful: bool = False,
    standardise: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed over temperatures and views: T^2 KL (mean over rows), class correlation, batch correlation.

    student, teacher: as of `mlkd_loss`. Of the weak view only the rows (in the class correlation: the classes) count
    that the teacher is least certain of, half of them; of the strong view all.
    faithful: as the code was published. There the choice only scales each term of the weak view by the share that
        counts, the fourth and fifth temperature of the strong view's KL see the weak logits, and the strong view's
        correlations are left out.
    standardise: the KL, and nothing else, sees z-scored logits (Sun et al. 2024), and C >= 2.
    """
    rows, classes = _least_certain(teacher[0])
    views = list(zip(student, teacher, strict=True))
    kd_weak, kd_strong = (_divergences(s, t, temperatures, standardise) for s, t in views)
    weak, strong = ((_softer(s, temperatures), _softer(t, temperatures)) for s, t in views)
    if faithful:
        seen = torch.cat((kd_strong[:3], kd_weak[3:]))
        kd = (rows.mean() * kd_weak + seen).mean(dim=-1)
        cc = classes.mean() * class_correlation(*weak, temperature=1.0)
        bc = rows.mean() * batch_correlation(*weak, temperature=1.0)
    else:
        kd = (rows * kd_weak + kd_strong).mean(dim=-1)
        cc = class_correlation(*weak, 1.0, classes) + class_correlation(*strong, 1.0)
        bc = batch_correlation(*weak, 1.0, rows) + batch_correlation(*strong, 1.0)
    return kd.sum(), cc.sum(), bc.sum()


def class_correlation(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, counted: Tensor | None = None
) -> Tensor:
    """|P^T P - Q^T Q|^2 / C in the Frobenius norm: how classes occur together in a batch.

    student, teacher: logits [..., N, C], softened by `temperature` to Q and P; counted: 1 or 0 for each class [C],
    whether its row of the matrix counts (all where None). Dimensionless, [...]; grows with N squared.
    """
    q, p = F.softmax(student / temperature, dim=-1), F.softmax(teacher / temperature, dim=-1)
    return _distance(p.mT @ p - q.mT @ q, counted)


def batch_correlation(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, counted: Tensor | None = None
) -> Tensor:
    """|P P^T - Q Q^T|^2 / N in the Frobenius norm: how alike the rows of a batch are.

    student, teacher: logits [..., N, C], softened by `temperature` to Q and P; counted: 1 or 0 for each row [N],
    whether its row of the matrix counts (all where None). Dimensionless, [...]; grows with N.
    """
    q, p = F.softmax(student / temperature, dim=-1), F.softmax(teacher / temperature, dim=-1)
    return _distance(p @ p.mT - q @ q.mT, counted)


def _distance(gap: Tensor, counted: Tensor | None) -> Tensor:
    rows = gap.square().sum(dim=-1)
    return (rows if counted is None else counted * rows).mean(dim=-1)


def _least_certain(teacher: Tensor) -> tuple[Tensor, Tensor]:
    """1 for each row [N] whose largest probability, and each class [C] whose sum, is at most the median, else 0."""
    p = F.softmax(teacher, dim=-1)
    certainties = p.amax(dim=-1), p.sum(dim=0)
    rows, classes = ((certainty <= certainty.median()).to(p.dtype) for certainty in certainties)
    return rows, classes


def _softer(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """[N, C] -> [K, N, C], divided by each of the K temperatures."""
    # Changes nothing but the rounding: logits far from 0 are not as fine after a division.
    logits = logits - logits.detach().amax(dim=-1, keepdim=True)
    return torch.stack([logits / temperature for temperature in temperatures])


def _divergences(
    student: Tensor, teacher: Tensor, temperatures: Sequence[float], standardise: bool
) -> Tensor:
    """T^2 KL(p_T || q_T) of each row at each of the K temperatures: [K, N]."""
    if standardise:
        student, teacher = z_scores(student), z_scores(teacher)
    log_q, log_p = (F.log_softmax(_softer(side, temperatures), dim=-1) for side in (student, teacher))
    rows = kl(log_p, log_q)
    return torch.stack([t**2 * row for t, row in zip(temperatures, rows, strict=True)])


class MLKD(Objective):
    """`mlkd_loss` as an objective.

    Raises ValueError unless 0 < temperatures < inf (five of them if faithful) and 0 <= strong_ce < inf.
    """

    paper = Paper("Multi-level Logit Distillation", 2023)
    formula = "sum over views and T of T^2 KL(p_T||q_T) + |P^T P - Q^T Q|^2 / C + |P P^T - Q Q^T|^2 / N"
    defaults_from = (
        "official code (Jin-Ying/Multi-Level-Logit-Distillation): weight 0.1 for both cross-entropies"
    )
    disagreements = (
        "the published code multiplies terms that are already scalars by its masks, which only halves them; here a "
        "mask chooses rows or classes before they are summed (faithful=True restores the code)",
        "the published KL of the strong view at temperatures 2 and 6 is that of the weak view; here it is the "
        "strong one's (faithful=True restores the code)",
        "the published code computes the strong view's class and batch correlations and adds neither; here both "
        "count, without a mask (faithful=True leaves them out)",
        "the correlations grow with the batch, so that the published weights hold for its 64 rows",
        "paper and most configurations train for 480 epochs, the released same-family ones for 240: "
        "schedule=mlkd480, schedule=mlkd240",
    )
    needs = ("logits", "labels", "views")
    views = ("strong",)
    couples_rows = True
    depends_on_batch_size = True

    def __init__(
        self,
        temperatures: Sequence[float] = TEMPERATURES,
        faithful: bool = False,
        standardise: bool = False,
        strong_ce: float = 1 / 9,
    ) -> None:
        super().__init__()
        if not temperatures or not all(0 < temperature < math.inf for temperature in temperatures):
            raise ValueError(f"MLKD: temperatures must be positive and finite, got {list(temperatures)}")
        if faithful and len(temperatures) != len(TEMPERATURES):
            raise ValueError(f"MLKD: temperatures must be five where faithful=True, got {list(temperatures)}")
        if not 0 <= strong_ce < math.inf:
            raise ValueError(f"MLKD: strong_ce must be finite and not negative, got {strong_ce}")
        self.temperatures, self.strong_ce = tuple(temperatures), strong_ce
        self.faithful, self.standardise = faithful, standardise

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`mlkd_loss` of both views' logits and the batch's target: a scalar."""
        first, second = ((side.logits, side.parts["strong"].logits) for side in (student, teacher))
        options = self.temperatures, self.faithful, self.standardise, self.strong_ce
        return mlkd_loss(first, second, batch.target, *options)
