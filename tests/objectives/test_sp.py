import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.sp import sp_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 97, dtype=torch.float64).sin().view(2, 3, 4, 4)
TEACHER = (torch.arange(1, 41, dtype=torch.float64) / 2).cos().view(2, 5, 2, 2)


def similarity(features: Tensor) -> Tensor:
    """Row by row."""
    rows = []
    for a in features:
        products = torch.stack([(a * b).sum() for b in features])
        rows.append(products / (products**2).sum().sqrt())
    return torch.stack(rows)


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    return ((similarity(student) - similarity(teacher)) ** 2).sum() / len(student) ** 2


def test_worked_value():
    """X44."""
    assert sp_loss(STUDENT, TEACHER).item() == pytest.approx(0.007458559473, abs=1e-9)


@pytest.mark.parametrize(("ours", "theirs"), [((4, 3, 3), (4, 3, 3)), ((6, 2, 2), (3, 4, 4)), ((5,), (12,))])
def test_value_and_gradient_are_the_formulas(ours, theirs):
    """Maps of other channels and sizes, and vectors."""
    student = normal(0, 5, torch.Size(ours).numel()).view(5, *ours)
    teacher = normal(1, 5, torch.Size(theirs).numel()).view(5, *theirs)
    assert_same(lambda s: sp_loss(s, teacher), lambda s: formula(s, teacher), student)


@given(st.integers(0, 2**31), st.floats(1e-2, 1e2))
def test_only_the_rows_relations_count(seed, scale):
    """A rotation of the features, or their scale, changes nothing; the features' own are the minimum."""
    student, teacher = normal(seed, 4, 6), normal(seed + 1, 4, 9)
    rotation = torch.linalg.qr(normal(seed + 2, 6, 6)).Q
    torch.testing.assert_close(sp_loss(scale * student @ rotation, teacher), sp_loss(student, teacher))
    assert sp_loss(student @ rotation, student) < 1e-20 < sp_loss(student, teacher)


def test_three_copies_are_worth_a_third():
    """The definition's N^2: rows of unit length have entries of order 1 / sqrt(N)."""
    student, teacher = normal(0, 4, 6), normal(1, 4, 9)
    thrice = sp_loss(student.repeat(3, 1), teacher.repeat(3, 1))
    torch.testing.assert_close(thrice, sp_loss(student, teacher) / 3)


@pytest.mark.parametrize("level", [0.0, 1.0, 1e4])
def test_finite_where_a_row_is_constant(level):
    student, teacher = normal(0, 4, 24).float(), normal(1, 4, 24).float()
    student[1], teacher[2] = level, level
    value, gradient = value_and_gradient(lambda s: sp_loss(s, teacher), student)
    torch.testing.assert_close(value.double(), sp_loss(student.double(), teacher.double()), rtol=1e-4, atol=0)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 10.0


def test_one_row_resembles_only_itself():
    value, gradient = value_and_gradient(lambda s: sp_loss(s, normal(1, 1, 5)), normal(0, 1, 5))
    assert value < 1e-30
    assert gradient.abs().max() < 1e-15
