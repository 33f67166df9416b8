"""MLKD: worked values as published, the corrected mode by a transcription, both views in a recipe's total."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss
from kdbench.objectives.mlkd import MLKD, batch_correlation, class_correlation, mlkd_loss, mlkd_terms
from tests.objectives.cases import STUDENT, TARGET, TEACHER, assert_same, normal, targets

STRONG_STUDENT = torch.tensor([[0.7, 0.9, -0.2], [0.0, 0.1, 0.8]], dtype=torch.float64)
STRONG_TEACHER = torch.tensor([[1.5, 0.4, -0.8], [-0.2, 0.6, 1.9]], dtype=torch.float64)
WORKED = (STUDENT, STRONG_STUDENT), (TEACHER, STRONG_TEACHER)
CE, KD, CC, BC = 0.136938387611, 1.747784595771, 0.017746132455, 0.011572930946
"""X29 to X32, weights included."""

TEMPERATURES = (4, 3, 5, 2, 6)


def formula(student, teacher, y: Tensor, z_scored: bool = False) -> Tensor:
    """The corrected mode, entry by entry, without a matrix product."""
    certainty = teacher[0].softmax(1).max(1).values
    mass = teacher[0].softmax(1).sum(0)
    keep_rows = certainty <= certainty.sort().values[(len(certainty) - 1) // 2]
    keep_classes = mass <= mass.sort().values[(len(mass) - 1) // 2]
    total = F.cross_entropy(student[1], y) / 9
    for s, z, weak in ((student[0], teacher[0], True), (student[1], teacher[1], False)):
        for t in TEMPERATURES:
            q, p = (s / t).softmax(1), (z / t).softmax(1)
            kd = ((z_score(z) / t).softmax(1), (z_score(s) / t).softmax(1)) if z_scored else (p, q)
            for i in range(len(s)):
                if keep_rows[i] or not weak:
                    total = total + t**2 * (kd[0][i] * (kd[0][i] / kd[1][i]).log()).sum() / len(s)
                    for j in range(len(s)):
                        total = total + (p[i] @ p[j] - q[i] @ q[j]) ** 2 / len(s)
            for k in range(s.shape[1]):
                if keep_classes[k] or not weak:
                    for m in range(s.shape[1]):
                        total = total + (p[:, k] @ p[:, m] - q[:, k] @ q[:, m]) ** 2 / s.shape[1]
    return total


def z_score(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def test_worked_values():
    """X30, X31, X32 as published, X33 and X34."""
    terms = [0.9 * term.item() for term in mlkd_terms(*WORKED, faithful=True)]
    assert terms == pytest.approx([KD, CC, BC], abs=1e-9)
    assert class_correlation(STUDENT, TEACHER).item() == pytest.approx(0.002115565843, abs=1e-9)
    assert batch_correlation(STUDENT, TEACHER).item() == pytest.approx(0.001382860202, abs=1e-9)


def test_the_published_total_in_a_recipe():
    """Weights 0.1 and 0.9 make X29 + X30 + X31 + X32 of it: the cross-entropy of both views has weight 0.1."""
    sides = [Outputs(weak, parts={"strong": Outputs(strong)}) for weak, strong in WORKED]
    batch = Batch(STUDENT, TARGET, torch.arange(2))
    loss = Loss({"ce": 0.1, "mlkd": 0.9}, {"mlkd": MLKD(faithful=True)})
    value = 0.1 * F.cross_entropy(STUDENT, TARGET) + 0.9 * loss.terms["mlkd"](*sides, batch)
    assert value.item() == pytest.approx(CE + KD + CC + BC, abs=1e-9)
    assert loss(*sides, batch)[0].item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("z_scored", [False, True])
def test_value_and_gradient_are_the_formulas(view, z_scored):
    student, teacher = [normal(0, 5, 4), normal(1, 5, 4)], (normal(2, 5, 4), normal(3, 5, 4))
    y = targets(student[0])

    def seen(s):
        return tuple(s if position == view else other for position, other in enumerate(student))

    assert_same(
        lambda s: mlkd_loss(seen(s), teacher, y, standardise=z_scored),
        lambda s: formula(seen(s), teacher, y, z_scored),
        student[view],
    )


def test_only_the_uncertain_half_of_the_weak_view_counts():
    """A student that is wrong only where the teacher is certain pays nothing there, but does as published."""
    teacher = torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.5, 0.2, 0.1, 0.0]], dtype=torch.float64)
    student = torch.tensor([[0.0, 3.0, 0.0, 0.0], [0.5, 0.2, 0.1, 0.0]], dtype=torch.float64)
    views = (student, teacher), (teacher, teacher)
    assert mlkd_terms(*views)[0] == 0
    assert mlkd_terms(*views, faithful=True)[0] > 1


def test_as_published_two_strong_temperatures_see_the_weak_view():
    """The strong view's KL at T = 2 and T = 6 is no part of the published code's."""
    off = STRONG_STUDENT + normal(0, 2, 3)
    published = [mlkd_terms((STUDENT, s), WORKED[1], faithful=True) for s in (off, STRONG_STUDENT)]
    shares = [t**2 * F.kl_div((s / t).log_softmax(1), (STRONG_TEACHER / t).softmax(1), reduction="batchmean")
              for s in (off, STRONG_STUDENT) for t in (4, 3, 5)]  # fmt: skip
    torch.testing.assert_close(published[0][0] - published[1][0], sum(shares[:3]) - sum(shares[3:]))
    assert published[0][1:] == published[1][1:]


def test_zero_on_itself():
    assert sum(mlkd_terms(WORKED[1], WORKED[1])).abs() < 1e-12


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"temperatures": []}, "temperatures"),
        ({"temperatures": [4.0, 0.0]}, "temperatures"),
        ({"temperatures": [4.0], "faithful": True}, "five"),
        ({"strong_ce": math.inf}, "strong_ce"),
    ],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=named):
        MLKD(**wrong)
