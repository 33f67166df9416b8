import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from kdbench.objectives.ablskd import ABLSKD, ablskd_loss
from kdbench.objectives.lskd import lskd_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    normal,
    pairs,
    temperatures,
    value_and_gradient,
)


def formula(student: Tensor, teacher: Tensor, a: float, b: float, t: float) -> Tensor:
    """On probabilities of z-scored logits; the continuous limit where beta is 0."""

    def soft(z: Tensor) -> Tensor:
        centred = z - z.sum(1, keepdim=True) / z.shape[1]
        variance = (centred**2).sum(1, keepdim=True) / (z.shape[1] - 1)
        return (centred / (variance**0.5 + 1e-7) / t).softmax(1)

    p, q = soft(teacher), soft(student)
    if b == 0:
        return t**2 * ((p**a * (p**a / q**a).log() - p**a + q**a) / a**2).sum(1).mean()
    cells = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
    return -(t**2) * cells.sum(1).mean() / (a * b)


def test_worked_value():
    """X19."""
    assert ablskd_loss(STUDENT, TEACHER, 0.9, 0.3).item() == pytest.approx(0.050559223330, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("alpha", "beta"), [(0.9, 0.3), (1.3, -0.3), (0.5, 0.0)])
def test_value_and_gradient_are_the_formulas(alpha, beta, temperature):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(
        lambda s: ablskd_loss(s, teacher, alpha, beta, temperature),
        lambda s: formula(s, teacher, alpha, beta, temperature),
        student,
    )


@given(pairs(), temperatures)
def test_is_lskd_at_1_and_0(pair, t):
    assert_close(ablskd_loss(*pair, 1.0, 0.0, t), lskd_loss(*pair, t), rtol=1e-8, atol=1e-12)


@given(pairs(), temperatures, st.floats(0.1, 10.0))
def test_shift_and_scale_of_a_row_change_nothing(pair, t, scale):
    student, teacher = pair
    # the epsilon of the standardisation changes the value by 1e-7 / deviation
    assume(min(side.std(dim=-1).min() for side in pair) > 0.1)
    shift = torch.arange(len(student), dtype=student.dtype)[:, None]
    changed = ablskd_loss(scale * student + shift, teacher / scale - shift, 0.9, 0.3, t)
    assert_close(changed, ablskd_loss(student, teacher, 0.9, 0.3, t), rtol=1e-4, atol=1e-5)


@given(pairs(), temperatures)
def test_never_negative_and_zero_on_itself(pair, t):
    assert ablskd_loss(*pair, 0.9, 0.3, t) >= -1e-12
    assert ablskd_loss(pair[0], pair[0], 0.9, 0.3, t).abs() < 1e-12


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_constant_rows_are_uniform_and_finite(side):
    constant, other = torch.full((4, 6), 3.3), normal(0, 4, 6).float()
    student = other if side == "teacher" else constant
    teacher = other if side == "student" else constant
    value, gradient = value_and_gradient(lambda s: ablskd_loss(s, teacher, 0.9, 0.3), student)
    exact = ablskd_loss(student.double(), teacher.double(), 0.9, 0.3)
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    assert gradient.isfinite().all()


def test_the_published_scale_is_half_the_limit_at_alpha_a_half():
    ours, published = (ablskd_loss(STUDENT, TEACHER, 0.5, 0.0, official_scale=flag) for flag in (False, True))
    assert ours.item() == pytest.approx(2 * published.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"temperature": 0.0}, "temperature"), ({"alpha": math.nan}, "alpha"), ({"beta": math.inf}, "beta")],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=f"ABLSKD: {named}"):
        ABLSKD(**{"alpha": 0.9, "beta": 0.3} | wrong)
