import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.mse import mse_loss
from tests.objectives.cases import STUDENT, TEACHER, assert_same, normal, pairs


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    return ((student - teacher) ** 2).sum() / student.numel()


def test_worked_value():
    """X36; with 3 classes, half the sum over classes is 1.5 times as much."""
    assert mse_loss(STUDENT, TEACHER).item() == pytest.approx(0.718333333333, abs=1e-9)
    assert 1.5 * mse_loss(STUDENT, TEACHER).item() == pytest.approx(1.0775, abs=1e-9)


def test_value_and_gradient_are_the_formulas():
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(lambda s: mse_loss(s, teacher), lambda s: formula(s, teacher), student)


@given(pairs())
def test_never_negative_and_zero_on_itself(pair):
    assert mse_loss(*pair) >= 0
    assert mse_loss(pair[0], pair[0]) == 0


@given(pairs())
def test_sees_a_constant_added_to_a_row(pair):
    student, _ = pair
    torch.testing.assert_close(mse_loss(student + 3.0, student), torch.tensor(9.0, dtype=torch.float64))
