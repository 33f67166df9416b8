import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.pkt import pkt_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 13, dtype=torch.float64).sin().view(3, 4)
TEACHER = (torch.arange(1, 13, dtype=torch.float64) / 2).cos().view(3, 4)


def neighbours(rows: Tensor) -> Tensor:
    norms = [(row @ row).sqrt() + 1e-7 for row in rows]
    matrix = torch.stack(
        [
            torch.stack([(a @ b / (m * n) + 1) / 2 for b, n in zip(rows, norms, strict=True)])
            for a, m in zip(rows, norms, strict=True)
        ]
    )
    return torch.stack([row / row.sum() for row in matrix])


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = neighbours(student), neighbours(teacher)
    return (t * ((t + 1e-7) / (s + 1e-7)).log()).sum() / len(s) ** 2


def test_worked_value():
    """X47."""
    assert pkt_loss(STUDENT, TEACHER).item() == pytest.approx(0.009093702946, abs=1e-9)


def test_value_and_gradient_are_the_formulas():
    """Of vectors of other widths."""
    teacher = normal(1, 5, 7)
    assert_same(lambda s: pkt_loss(s, teacher), lambda s: formula(s, teacher), normal(0, 5, 4))


@given(st.integers(0, 2**31), st.floats(0.1, 10.0))
def test_only_the_directions_count(seed, scale):
    """A rotation or the length of a row changes nothing; of itself it is the minimum."""
    student, teacher = normal(seed, 4, 6), normal(seed + 1, 4, 9)
    rotation = torch.linalg.qr(normal(seed + 2, 6, 6)).Q
    lengths = torch.tensor([1.0, scale, 2.0, 0.5], dtype=torch.float64)[:, None]
    moved = pkt_loss(lengths * student @ rotation, teacher)
    torch.testing.assert_close(moved, pkt_loss(student, teacher), rtol=1e-5, atol=1e-9)
    assert pkt_loss(student @ rotation, student).abs() < 1e-9 < pkt_loss(student, teacher)


def test_three_copies_are_worth_a_third():
    """The mean over N^2 of a divergence that sums over N; the 1e-7 keeps it from being exact."""
    student, teacher = normal(0, 4, 6), normal(1, 4, 9)
    thrice = pkt_loss(student.repeat(3, 1), teacher.repeat(3, 1))
    torch.testing.assert_close(thrice, pkt_loss(student, teacher) / 3, rtol=1e-5, atol=0)


@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_finite_where_a_row_is_constant(level, side):
    student, teacher = normal(0, 4, 6).float(), normal(1, 4, 6).float()
    (student if side == "student" else teacher)[1] = level
    value, gradient = value_and_gradient(lambda s: pkt_loss(s, teacher), student)
    torch.testing.assert_close(
        value.double(), pkt_loss(student.double(), teacher.double()), rtol=1e-4, atol=0
    )
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1.0


def test_a_row_of_zeros_is_like_no_other():
    """Its cosines are 0, its own too, as in the published code."""
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    aligned = torch.tensor([[2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    half, third = torch.tensor(0.5).double(), torch.tensor(1 / 3).double()
    expected = (0.5 * ((half / third).log() + (half / (1 - third)).log())) / 4
    torch.testing.assert_close(pkt_loss(student, aligned), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(20))
def test_finite_where_rows_are_opposite(seed):
    """Rounding takes some of their cosines below -1, and the logarithm's argument with them."""
    rows, teacher = normal(seed, 1, 50).float(), normal(seed + 99, 2, 50).float()
    value, gradient = value_and_gradient(lambda s: pkt_loss(s, teacher), torch.cat((rows, -3 * rows)))
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_one_row_has_no_other():
    value, gradient = value_and_gradient(lambda s: pkt_loss(s, normal(1, 1, 5)), normal(0, 1, 5))
    assert value == 0
    assert gradient.abs().max() < 1e-15
