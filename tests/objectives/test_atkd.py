import math
from statistics import median_low

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.atkd import ATKD, atkd_loss
from kdbench.objectives.dkd import dkd_loss
from tests.objectives.cases import (
    STUDENT,
    TARGET,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    normal,
    pairs,
    targets,
)


def formula(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, reverse: bool) -> Tensor:
    """Row by row on probabilities, without any masking; a mean over each half."""
    p, q = teacher.softmax(1), student.softmax(1)
    labels = target.tolist()
    uncertain = [1 - row[y].item() for row, y in zip(p, labels, strict=True)]
    easy, hard = [], []
    for a, b, y, u in zip(*((q, p) if reverse else (p, q)), labels, uncertain, strict=True):
        others = [k for k in range(len(a)) if k != y]
        tckd = a[y] * (a[y] / b[y]).log() + (1 - a[y]) * ((1 - a[y]) / (1 - b[y])).log()
        a_hat, b_hat = a[others] / (1 - a[y]), b[others] / (1 - b[y])
        nckd = (a_hat * (a_hat / b_hat).log()).sum()
        (easy if u < median_low(uncertain) else hard).append(
            nckd if u < median_low(uncertain) else tckd + nckd
        )
    return alpha * sum(easy) / max(len(easy), 1) + (1 - alpha) * sum(hard) / len(hard)


def test_three_rows_by_hand():
    """The teacher is surest of the second row's label, the lower and only middle is the first: one easy, two hard."""
    student, teacher = (torch.cat((z, z[:1].flip(1))) for z in (STUDENT, TEACHER))
    target = torch.tensor([*TARGET.tolist(), 0])
    tckd, nckd = [], []
    for s, z, y in zip(student, teacher, target.tolist(), strict=True):
        p, q = z.softmax(0)[y].item(), s.softmax(0)[y].item()
        tckd.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        one, two = (k for k in range(3) if k != y)
        a, b = (1 / (1 + math.exp((row[two] - row[one]).item())) for row in (z, s))
        nckd.append(a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)))
    expected = 0.2 * nckd[1] + 0.8 * (tckd[0] + nckd[0] + tckd[2] + nckd[2]) / 2
    assert atkd_loss(student, teacher, target).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 8, 9])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_value_and_gradient_are_the_formulas(alpha, rows, reverse):
    student, teacher = normal(0, rows, 7), normal(1, rows, 7)
    y = targets(student)
    assert_same(
        lambda s: atkd_loss(s, teacher, y, alpha, reverse),
        lambda s: formula(s, teacher, y, alpha, reverse),
        student,
    )


def test_reversing_exchanges_the_divergence_and_not_the_split():
    """The teacher is unsure of the first row alone, the student of the second."""
    teacher = torch.tensor([[1.0, 2.0, 0], [8.0, 1, 0], [9.0, 0, 1]], dtype=torch.float64)
    student, y = teacher[[1, 0, 2]] + normal(0, 3, 3, scale=0.1), torch.zeros(3, dtype=torch.int64)
    hard = atkd_loss(student, teacher, y, alpha=0.0, reverse=True)
    expected = dkd_loss(teacher[:2], student[:2], y[:2], 1.0, 1.0, 1.0)  # the third row alone is easy
    torch.testing.assert_close(hard, expected)


def test_equal_rows_are_all_hard():
    student, teacher = normal(0, 1, 7).repeat(4, 1), normal(1, 1, 7).repeat(4, 1)
    y = torch.zeros(4, dtype=torch.int64)
    decoupled = dkd_loss(student, teacher, y, alpha=1.0, beta=1.0, temperature=1.0)
    torch.testing.assert_close(atkd_loss(student, teacher, y), 0.8 * decoupled)


def test_a_row_moves_its_neighbours_over_the_median():
    """The surest of three rows is easy, also with a fourth that is surer still, and with a fifth both are."""
    teacher = torch.zeros(5, 3, dtype=torch.float64)
    teacher[:, 0] = torch.tensor([1.0, 2.0, 9.0, 10.0, 0.5])
    student, y = normal(0, 5, 3), torch.zeros(5, dtype=torch.int64)

    def decoupled(*rows: int) -> Tensor:
        index = list(rows)
        return dkd_loss(student[index], teacher[index], y[index], 1.0, 1.0, 1.0)

    for count, hard in ((2, (0, 1)), (3, (0, 1)), (4, (0, 1, 2)), (5, (0, 1, 4))):
        ours = atkd_loss(student[:count], teacher[:count], y[:count], alpha=0.0)
        torch.testing.assert_close(ours, decoupled(*hard))


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
    """All teachers within 1e-9 of 0 or 1: still three of eight easy, the right ones."""
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
