import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.ttm import ttm_loss
from kdbench.objectives.wttm import WTTM, wttm_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    gammas,
    normal,
    pairs,
)


def formula(student: Tensor, teacher: Tensor, gamma: float) -> Tensor:
    power = teacher.softmax(1) ** gamma
    weight = power.sum(1)
    p, q = power / weight[:, None], student.softmax(1)
    return (weight * (p * (p / q).log()).sum(1)).mean()


@pytest.mark.parametrize(("gamma", "value"), [(0.1, 0.281091011979), (0.25, 0.100855839100)])
def test_worked_values(gamma, value):
    """X4, X6."""
    assert wttm_loss(STUDENT, TEACHER, gamma).item() == pytest.approx(value, abs=1e-9)


def test_power_sums():
    """The weights of the two rows at gamma = 1/4, read off as the ratio to TTM."""
    rows = [(STUDENT[i : i + 1], TEACHER[i : i + 1]) for i in range(2)]
    ratios = [(wttm_loss(s, t, 1 / 4) / ttm_loss(s, t, 1 / 4)).item() for s, t in rows]
    assert ratios == pytest.approx([1.99247197, 1.97441881], abs=1e-8)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_value_and_gradient_are_the_formulas(gamma):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(lambda s: wttm_loss(s, teacher, gamma), lambda s: formula(s, teacher, gamma), student)


@given(pairs(), gammas)
def test_never_negative_and_zero_on_the_transformed_teacher(pair, gamma):
    student, teacher = pair
    assert wttm_loss(student, teacher, gamma) >= -1e-11
    assert wttm_loss(gamma * teacher, teacher, gamma).abs() < 1e-11


@given(pairs(), gammas)
def test_a_constant_added_to_a_row_changes_nothing(pair, gamma):
    assert_shift_invariant(lambda s, z: wttm_loss(s, z, gamma), pair)


@given(pairs())
def test_is_ttm_where_nothing_is_transformed(pair):
    torch.testing.assert_close(wttm_loss(*pair, gamma=1.0), ttm_loss(*pair, gamma=1.0))


@given(pairs(), gammas)
def test_weighs_a_uniform_teacher_by_a_power_of_the_classes(pair, gamma):
    student, classes = pair[0], pair[0].shape[1]
    uniform = torch.zeros_like(student)
    expected = classes ** (1 - gamma) * ttm_loss(student, uniform, gamma)
    torch.testing.assert_close(wttm_loss(student, uniform, gamma), expected)


@pytest.mark.parametrize("gamma", [0.0, -0.1, math.nan, math.inf])
def test_refuses_a_gamma(gamma):
    with pytest.raises(ValueError, match="gamma"):
        WTTM(gamma)
