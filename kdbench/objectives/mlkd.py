"""MLKD (Jin et al. 2023, CVPR): KL, class and batch correlations of two views at five temperatures."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.functional.divergences import standardise as z_scores
from kdbench.utils.validation import check_non_negative, check_positive

TEMPERATURES: Sequence[float] = [4.0, 3.0, 5.0, 2.0, 6.0]
"""The published temperatures, the base temperature first."""

Views = tuple[Tensor, Tensor]
"""Logits [N, C] of the weak and of the strong view, from one side."""


def mlkd_loss(
    student: Views,
    teacher: Views,
    target: Tensor,
    temperatures: Sequence[float] = TEMPERATURES,
    faithful: bool = False,
    standardise: bool = False,
    strong_ce: float = 1 / 9,
) -> Tensor:
    """Return the sum of `mlkd_terms` and of strong_ce * cross-entropy on the strong view.

    The cross-entropy is part of this loss because a recipe's `ce` sees the weak view only. With `ce` at
    weight w, strong_ce = w / (weight of this term) gives both views the weight w.

    Args:
        student: Student logits of the weak and of the strong view, [N, C] each.
        teacher: Teacher logits of the weak and of the strong view.
        target: Class indices, int64 [N].
        temperatures: Temperatures of the three terms, the base temperature first.
        faithful: Compute what the published code computes; see `mlkd_terms`.
        standardise: Use z-scored logits in the KL term.
        strong_ce: Weight of the cross-entropy on the strong view.

    Returns:
        A scalar.
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
    """Return the KL, class correlation and batch correlation terms, summed over temperatures and views.

    In the weak view only half of the rows count (of the classes, in the class correlation): those that the
    teacher is least certain of. In the strong view all count.

    Args:
        student: Student logits of the weak and of the strong view, [N, C] each.
        teacher: Teacher logits of the weak and of the strong view.
        temperatures: Temperatures of the three terms, the base temperature first.
        faithful: Compute what the published code computes. There the selection only scales each term of the
            weak view by the selected share, the KL of the strong view uses the weak logits at the fourth and
            fifth temperature, and the correlations of the strong view are left out.
        standardise: Use z-scored logits (Sun et al. 2024) in the KL term only; needs C >= 2.

    Returns:
        T^2 KL (a mean over rows), class correlation and batch correlation: three scalars.
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
    student: Tensor, teacher: Tensor, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """Return |P^T P - Q^T Q|^2 / C in the Frobenius norm: how classes occur together in a batch.

    Args:
        student: Student logits [..., N, C], softened to Q.
        teacher: Teacher logits [..., N, C], softened to P.
        temperature: T, which divides the logits of both sides.
        mask: 1 or 0 for each class [C], whether its row of the matrix counts; None counts all.

    Returns:
        A dimensionless tensor [...] that grows with N squared.
    """
    q, p = F.softmax(student / temperature, dim=-1), F.softmax(teacher / temperature, dim=-1)
    return _distance(p.mT @ p - q.mT @ q, mask)


def batch_correlation(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, mask: Tensor | None = None
) -> Tensor:
    """Return |P P^T - Q Q^T|^2 / N in the Frobenius norm: how similar the rows of a batch are.

    Args:
        student: Student logits [..., N, C], softened to Q.
        teacher: Teacher logits [..., N, C], softened to P.
        temperature: T, which divides the logits of both sides.
        mask: 1 or 0 for each row [N], whether its row of the matrix counts; None counts all.

    Returns:
        A dimensionless tensor [...] that grows with N.
    """
    q, p = F.softmax(student / temperature, dim=-1), F.softmax(teacher / temperature, dim=-1)
    return _distance(p @ p.mT - q @ q.mT, mask)


def _distance(gap: Tensor, mask: Tensor | None) -> Tensor:
    rows = gap.square().sum(dim=-1)
    return (rows if mask is None else mask * rows).mean(dim=-1)


def _least_certain(teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 for each row [N] and each class [C] that the teacher is least certain of, else 0.

    A row counts if its largest probability, and a class if its summed probability, is at most the median.
    """
    p = F.softmax(teacher, dim=-1)
    certainties = p.amax(dim=-1), p.sum(dim=0)
    rows, classes = ((certainty <= certainty.median()).to(p.dtype) for certainty in certainties)
    return rows, classes


def _softer(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Divide logits by each of the K temperatures: [N, C] -> [K, N, C]."""
    # Only affects rounding: logits far from 0 lose precision in the division.
    logits = logits - logits.detach().amax(dim=-1, keepdim=True)
    return torch.stack([logits / temperature for temperature in temperatures])


def _divergences(
    student: Tensor, teacher: Tensor, temperatures: Sequence[float], standardise: bool
) -> Tensor:
    """Return T^2 KL(p_T || q_T) of each row at each of the K temperatures: [K, N]."""
    if standardise:
        student, teacher = z_scores(student), z_scores(teacher)
    log_q, log_p = (F.log_softmax(_softer(side, temperatures), dim=-1) for side in (student, teacher))
    rows = kl(log_p, log_q)
    return torch.stack([t**2 * row for t, row in zip(temperatures, rows, strict=True)])


class MLKD(Objective):
    """`mlkd_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If a temperature is not positive and finite, there are not five of them with `faithful`,
            or `strong_ce` is negative or not finite.
    """

    paper = Paper("Multi-level Logit Distillation", 2023)
    formula = "sum over views and T of T^2 KL(p_T||q_T) + |P^T P - Q^T Q|^2 / C + |P P^T - Q Q^T|^2 / N"
    defaults_from = (
        "the official code (Jin-Ying/Multi-Level-Logit-Distillation): weight 0.1 for both cross-entropies"
    )
    disagreements = (
        "The published code multiplies terms that are already scalars by its masks, which only halves them. "
        "Here a mask selects rows or classes before they are summed (faithful=True restores the code).",
        "The published KL of the strong view at temperatures 2 and 6 is that of the weak view; here it is "
        "that of the strong view (faithful=True restores the code).",
        "The published code computes the class and batch correlations of the strong view and adds neither; "
        "here both count, without a mask (faithful=True leaves them out).",
        "The correlations grow with the batch, so the published weights hold for its 64 rows.",
        "The paper and most configurations train for 480 epochs, the released same-family ones for 240: "
        "schedule=mlkd480, schedule=mlkd240.",
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
        if not temperatures:
            raise ValueError("MLKD: temperatures must name at least one temperature, got []")
        check_positive("MLKD", **{f"temperatures[{number}]": t for number, t in enumerate(temperatures)})
        if faithful and len(temperatures) != len(TEMPERATURES):
            raise ValueError(f"MLKD: faithful=True needs five temperatures, got {list(temperatures)}")
        check_non_negative("MLKD", strong_ce=strong_ce)
        self.temperatures, self.strong_ce = tuple(temperatures), strong_ce
        self.faithful, self.standardise = faithful, standardise

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `mlkd_loss` of both views' logits and the batch's target: a scalar."""
        ours, theirs = ((side.logits, side.parts["strong"].logits) for side in (student, teacher))
        options = self.temperatures, self.faithful, self.standardise, self.strong_ce
        return mlkd_loss(ours, theirs, batch.target, *options)
