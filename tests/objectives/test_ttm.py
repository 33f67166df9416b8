import math

import pytest
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from kdbench.objectives.kd import kd_loss
from kdbench.objectives.ttm import TTM, ttm_diagnostics, ttm_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    gammas,
    normal,
    pairs,
    value_and_gradient,
)


def formula(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    power = teacher.softmax(1) ** gamma
    p, q = power / power.sum(1, keepdim=True), student.softmax(1)
    return (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize(("gamma", "value"), [(0.1, 0.111949075911), (0.25, 0.050886029141)])
def test_worked_values(gamma, value):
    """X3, X5."""
    assert ttm_loss(STUDENT, TEACHER, gamma).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_value_and_gradient_are_the_formulas(gamma):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(lambda s: ttm_loss(s, teacher, gamma), lambda s: formula(s, teacher, gamma), student)


@given(pairs(), gammas)
def test_the_gradient_is_student_minus_transformed_teacher(pair, gamma):
    student, teacher = pair
    _, gradient = value_and_gradient(lambda s: ttm_loss(s, teacher, gamma), student)
    expected = (student.softmax(1) - (gamma * teacher).softmax(1)) / len(student)
    assert_close(gradient, expected, rtol=1e-7, atol=1e-12)


@given(pairs(), gammas)
def test_never_negative_and_zero_on_the_transformed_teacher(pair, gamma):
    student, teacher = pair
    assert ttm_loss(student, teacher, gamma) >= -1e-12
    assert ttm_loss(gamma * teacher, teacher, gamma).abs() < 1e-12


@given(pairs(), gammas)
def test_a_constant_added_to_a_row_changes_nothing(pair, gamma):
    assert_shift_invariant(lambda s, z: ttm_loss(s, z, gamma), pair)


@given(pairs())
def test_is_kd_where_nothing_is_transformed(pair):
    assert_close(ttm_loss(*pair, gamma=1.0), kd_loss(*pair, temperature=1.0))


def test_numbers_of_the_diagnostics():
    """T = 4, row by row: both sides of the identity, the student's Renyi entropy, the teacher's entropy."""
    numbers = [(0.04270787, 1.05705339, 1.04813038), (0.05906419, 1.05586464, 1.04522399)]
    for row, (divergence, renyi, shannon) in enumerate(numbers):
        student, teacher = STUDENT[row : row + 1], TEACHER[row : row + 1]
        parts = ttm_diagnostics(student, teacher, 4.0)
        assert all(part.shape == () for part in parts.values())
        assert parts["student_entropy"].item() == pytest.approx(3 * renyi, abs=3e-8)
        assert parts["teacher_entropy"].item() == pytest.approx(3 * shannon, abs=3e-8)
        assert identity(parts).item() == pytest.approx(divergence, abs=1e-8)
        assert ttm_loss(student, teacher, 1 / 4).item() == pytest.approx(divergence, abs=1e-8)


@given(pairs(), gammas)
def test_is_kd_less_a_reward_on_the_students_renyi_entropy(pair, gamma):
    """KL(p_T || q) = T KL(p_T || q_T) - (T - 1) H_{1/T}(q) + (T - 1) H(p_T)."""
    student, teacher = pair
    parts = ttm_diagnostics(student, teacher, 1 / gamma)
    assert_close(identity(parts), ttm_loss(student, teacher, gamma), rtol=1e-8, atol=1e-10)
    assert_close(parts["kd"], gamma * kd_loss(student, teacher, 1 / gamma))
    q, p = student.softmax(1), (gamma * teacher).softmax(1)
    assert_close(parts["teacher_entropy"], (1 - 1 / gamma) * (p * p.log()).sum(1).mean())
    if gamma < 0.99:  # the order 1 is a limit
        renyi = (q**gamma).sum(1).log() / (1 - gamma)
        assert_close(parts["student_entropy"], (1 / gamma - 1) * renyi.mean())


def identity(parts: dict[str, Tensor]) -> Tensor:
    return parts["kd"] - parts["student_entropy"] + parts["teacher_entropy"]


@pytest.mark.parametrize("gamma", [0.0, -0.1, math.nan, math.inf])
def test_refuses_a_gamma(gamma):
    with pytest.raises(ValueError, match="gamma"):
        TTM(gamma)
