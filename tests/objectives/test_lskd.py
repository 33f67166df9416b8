import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.lskd import LSKD, lskd_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    normal,
    pairs,
    temperatures,
    value_and_gradient,
)


def formula(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    def soft(z: Tensor) -> Tensor:
        centred = z - z.sum(1, keepdim=True) / z.shape[1]
        variance = (centred**2).sum(1, keepdim=True) / (z.shape[1] - 1)
        return (centred / (variance**0.5 + 1e-7) / t).softmax(1)

    p, q = soft(teacher), soft(student)
    return t**2 * (p * (p / q).log()).sum(1).mean()


def test_worked_value():
    """X18, X20."""
    assert lskd_loss(STUDENT, TEACHER).item() == pytest.approx(0.065709369944, abs=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_value_and_gradient_are_the_formulas(temperature):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(
        lambda s: lskd_loss(s, teacher, temperature), lambda s: formula(s, teacher, temperature), student
    )


@given(pairs(), temperatures)
def test_never_negative_and_zero_on_itself(pair, t):
    assert lskd_loss(*pair, t) >= -1e-12
    assert lskd_loss(pair[0], pair[0], t).abs() < 1e-12


@given(pairs(), temperatures, st.floats(0.1, 10.0))
def test_shift_and_scale_of_a_row_change_nothing(pair, t, scale):
    student, teacher = pair
    # the epsilon of the standardisation changes the value by 1e-7 / deviation
    assume(min(side.std(dim=-1).min() for side in pair) > 0.1)
    shift = torch.arange(len(student), dtype=student.dtype)[:, None]
    changed = lskd_loss(scale * student + shift, teacher / scale - shift, t)
    torch.testing.assert_close(changed, lskd_loss(student, teacher, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
@pytest.mark.parametrize("level", [0.0, 3.3, 1e4])
def test_constant_rows_are_uniform_and_finite(side, level):
    constant, other = torch.full((4, 6), level), normal(0, 4, 6).float()
    student = other if side == "teacher" else constant
    teacher = other if side == "student" else constant
    value, gradient = value_and_gradient(lambda s: lskd_loss(s, teacher), student)
    torch.testing.assert_close(
        value.double(), lskd_loss(student.double(), teacher.double()), rtol=1e-5, atol=1e-6
    )
    assert gradient.isfinite().all()


def test_rows_far_from_zero_keep_their_precision():
    student, teacher = (1e4 + 1e-2 * normal(seed, 8, 10).float() for seed in (0, 1))
    single = value_and_gradient(lambda s: lskd_loss(s, teacher), student)
    exact = value_and_gradient(lambda s: lskd_loss(s, teacher.double()), student.double())
    torch.testing.assert_close(tuple(x.double() for x in single), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_temperature(temperature):
    with pytest.raises(ValueError, match="temperature"):
        LSKD(temperature)
