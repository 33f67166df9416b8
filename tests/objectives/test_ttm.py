import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.kd import kd_loss
from kdbench.objectives.ttm import TTM, ttm_loss

from .cases import (
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


def shannon(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(1)


def renyi(q: Tensor, order: float) -> Tensor:
    return (q**order).sum(1).log() / (1 - order)


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
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-12)


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
    torch.testing.assert_close(ttm_loss(*pair, gamma=1.0), kd_loss(*pair, temperature=1.0))


def test_numbers_of_the_identity():
    """T = 4: the two rows' Renyi entropies of the student, and entropies of the transformed teacher."""
    torch.testing.assert_close(
        renyi(STUDENT.softmax(1), 1 / 4), torch.tensor([1.05705339, 1.05586464]).double()
    )
    torch.testing.assert_close(
        shannon((TEACHER / 4).softmax(1)), torch.tensor([1.04813038, 1.04522399]).double()
    )
    per_row = [ttm_loss(STUDENT[i : i + 1], TEACHER[i : i + 1], 1 / 4).item() for i in range(2)]
    assert per_row == pytest.approx([0.04270787, 0.05906419], abs=1e-8)


@given(pairs(), gammas.filter(lambda gamma: gamma < 0.99))
def test_is_kd_less_a_reward_on_the_students_renyi_entropy(pair, gamma):
    student, teacher = pair
    t = 1 / gamma
    entropies = shannon((teacher / t).softmax(1)) - renyi(student.softmax(1), gamma)
    identity = kd_loss(student, teacher, t) / t + (t - 1) * entropies.mean()
    torch.testing.assert_close(ttm_loss(student, teacher, gamma), identity, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.0, -0.1, math.nan, math.inf])
def test_refuses_a_gamma(gamma):
    with pytest.raises(ValueError, match="gamma"):
        TTM(gamma)
