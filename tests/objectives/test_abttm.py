import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from kdbench.objectives.abttm import ABTTM, abttm_loss
from kdbench.objectives.ttm import ttm_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    gammas,
    normal,
    pairs,
)

exponents = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(-1.0, 2.0))


def formula(student: Tensor, teacher: Tensor, gamma: float, a: float, b: float) -> Tensor:
    """On probabilities; the continuous limit where beta is 0."""
    power, q = teacher.softmax(1) ** gamma, student.softmax(1)
    p = power / power.sum(1, keepdim=True)
    if b == 0:
        return ((p**a * (p**a / q**a).log() - p**a + q**a) / a**2).sum(1).mean()
    cells = p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)
    return -cells.sum(1).mean() / (a * b)


def test_worked_value():
    """X17."""
    assert abttm_loss(STUDENT, TEACHER, 0.1, 0.9, 0.2).item() == pytest.approx(0.096049290176, abs=1e-9)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (1.6, -0.5), (0.5, 0.6), (0.5, 0.0)])
def test_value_and_gradient_are_the_formulas(alpha, beta, gamma):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(
        lambda s: abttm_loss(s, teacher, gamma, alpha, beta),
        lambda s: formula(s, teacher, gamma, alpha, beta),
        student,
    )


@given(pairs(), gammas)
def test_is_ttm_at_1_and_0(pair, gamma):
    assert_close(abttm_loss(*pair, gamma, 1.0, 0.0), ttm_loss(*pair, gamma), rtol=1e-8, atol=1e-12)


@given(pairs(), gammas, exponents, exponents)
def test_never_negative_and_zero_on_the_transformed_teacher(pair, gamma, alpha, beta):
    student, teacher = pair
    assert abttm_loss(student, teacher, gamma, alpha, beta) >= -1e-12
    assert abttm_loss(gamma * teacher, teacher, gamma, alpha, beta).abs() < 1e-12


@given(pairs(), gammas, exponents, exponents)
def test_a_constant_added_to_a_row_changes_nothing(pair, gamma, alpha, beta):
    assert_shift_invariant(lambda s, z: abttm_loss(s, z, gamma, alpha, beta), pair)


def test_the_published_scale_is_half_the_limit_at_alpha_a_half():
    ours, published = (
        abttm_loss(STUDENT, TEACHER, 0.1, 0.5, 0.0, official_scale=flag) for flag in (False, True)
    )
    assert ours.item() == pytest.approx(2 * published.item(), rel=1e-12)
    assert ours.item() == pytest.approx(abttm_loss(STUDENT, TEACHER, 0.1, 0.5, 1e-8).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": math.inf}, "gamma"),
        ({"alpha": math.nan}, "alpha"),
        ({"beta": math.inf}, "beta"),
    ],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=f"ABTTM: {named}"):
        ABTTM(**{"gamma": 0.1, "alpha": 0.8, "beta": 0.3} | wrong)
