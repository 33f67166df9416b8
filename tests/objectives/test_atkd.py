import math
from statistics import median

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.atkd import ATKD, atkd_loss
from kdbench.objectives.dkd import dkd_loss

from .cases import STUDENT, TARGET, TEACHER, assert_same, assert_shift_invariant, normal, pairs, targets


def formula(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, reverse: bool) -> Tensor:
    """Row by row on probabilities, without any masking."""
    p, q = teacher.softmax(1), student.softmax(1)
    if reverse:
        p, q = q, p
    labels = target.tolist()
    uncertain = [1 - row[y].item() for row, y in zip(p, labels, strict=True)]
    total = torch.zeros((), dtype=student.dtype)
    for a, b, y, u in zip(p, q, labels, uncertain, strict=True):
        others = [k for k in range(len(a)) if k != y]
        tckd = a[y] * (a[y] / b[y]).log() + (1 - a[y]) * ((1 - a[y]) / (1 - b[y])).log()
        a_hat, b_hat = a[others] / (1 - a[y]), b[others] / (1 - b[y])
        nckd = (a_hat * (a_hat / b_hat).log()).sum()
        total = total + (alpha * nckd if u < median(uncertain) else (1 - alpha) * (tckd + nckd))
    return total / len(student)


def test_two_rows_by_hand():
    """The teacher is surer of the second row's label: that one is easy."""
    p, q = TEACHER.softmax(1), STUDENT.softmax(1)
    assert p[1, 2] > p[0, 0]
    hard = (
        p[0, 0] * (p[0, 0] / q[0, 0]).log() + (1 - p[0, 0]) * ((1 - p[0, 0]) / (1 - q[0, 0])).log()
    ).item()
    others = []
    for row, two in ((0, (1, 2)), (1, (0, 1))):
        a, b = (1 / (1 + math.exp((z[row, two[1]] - z[row, two[0]]).item())) for z in (TEACHER, STUDENT))
        others.append(a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)))
    expected = (0.8 * (hard + others[0]) + 0.2 * others[1]) / 2
    assert atkd_loss(STUDENT, TEACHER, TARGET).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", [1, 8, 9])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_value_and_gradient_are_the_formulas(alpha, rows, reverse):
    student, teacher = normal(0, rows, 7), normal(1, rows, 7)
    y = targets(student)
    assert_same(
        lambda s: atkd_loss(s, teacher, y, alpha, reverse),
        lambda s: formula(s, teacher, y, alpha, reverse),
        student,
    )


def test_reversing_is_exchanging_the_sides():
    student, teacher = normal(0, 9, 7), normal(1, 9, 7)
    y = targets(student)
    forward, back = atkd_loss(student, teacher, y), atkd_loss(student, teacher, y, reverse=True)
    torch.testing.assert_close(back, atkd_loss(teacher, student, y))
    assert not torch.isclose(forward, back)


def test_equal_rows_are_all_hard():
    student, teacher = normal(0, 1, 7).repeat(4, 1), normal(1, 1, 7).repeat(4, 1)
    y = torch.zeros(4, dtype=torch.int64)
    decoupled = dkd_loss(student, teacher, y, alpha=1.0, beta=1.0, temperature=1.0)
    torch.testing.assert_close(atkd_loss(student, teacher, y), 0.8 * decoupled)


def test_a_row_moves_its_neighbours_over_the_median():
    """Of two rows the surer one is easy; a third that is surer still makes it hard."""
    teacher = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [9.0, 0, 0]], dtype=torch.float64)
    student, y = normal(0, 3, 3), torch.zeros(3, dtype=torch.int64)
    whole = 3 * atkd_loss(student, teacher, y, alpha=0.0)
    third_is_easy = dkd_loss(student[:2], teacher[:2], y[:2], 1.0, 1.0, 1.0) * 2
    torch.testing.assert_close(whole, third_is_easy)
    first_alone = dkd_loss(student[:1], teacher[:1], y[:1], 1.0, 1.0, 1.0)
    torch.testing.assert_close(2 * atkd_loss(student[:2], teacher[:2], y[:2], alpha=0.0), first_alone)


@given(pairs())
def test_never_negative_and_zero_on_itself(pair):
    y = targets(pair[0])
    assert atkd_loss(*pair, y) >= -1e-10
    assert atkd_loss(pair[0], pair[0], y).abs() < 1e-10


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(lambda s, z: atkd_loss(s, z, targets(s)), pair)


@pytest.mark.parametrize("certain", [25.0, -25.0])
def test_float32_tells_rows_apart_whose_uncertainty_rounds(certain):
    """All teachers within 1e-9 of 0 or 1: still half easy, the right half."""
    student, teacher = normal(0, 8, 5).float(), torch.zeros(8, 5)
    teacher[:, 0] = certain + torch.linspace(0, 3, 8)
    y = torch.zeros(8, dtype=torch.int64)
    exact = atkd_loss(student.double(), teacher.double(), y)
    torch.testing.assert_close(atkd_loss(student, teacher, y).double(), exact, rtol=1e-3, atol=0)


def test_float32_tells_rows_apart_far_from_zero():
    """Logits a step of float32 apart at 1e4, and odds a quarter of a step."""
    student, teacher = normal(0, 6, 5).float(), torch.full((6, 5), 1e4)
    teacher[:, 1] += torch.arange(6) / 1024
    y = torch.zeros(6, dtype=torch.int64)
    exact = atkd_loss(student.double(), teacher.double(), y)
    torch.testing.assert_close(atkd_loss(student, teacher, y).double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_refuses_an_alpha(alpha):
    with pytest.raises(ValueError, match="ATKD: alpha"):
        ATKD(alpha)
