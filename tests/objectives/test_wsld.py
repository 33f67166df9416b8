import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.wsld import WSLD, wsld_loss
from tests.objectives.cases import (
    STUDENT,
    TARGET,
    TEACHER,
    assert_shift_invariant,
    normal,
    pairs,
    targets,
    temperatures,
)
from tests.objectives.cases import value_and_gradient as of


def weights(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    rows = torch.arange(len(target))
    ce_s, ce_t = (-z.softmax(1)[rows, target].log() for z in (student, teacher))
    return 1 - (-ce_s / (ce_t + 1e-7)).exp()


def soft(student: Tensor, teacher: Tensor, weight: Tensor, t: float) -> Tensor:
    cross_entropy = -((teacher / t).softmax(1) * (student / t).softmax(1).log()).sum(1)
    return t**2 * (weight * cross_entropy).mean()


def test_worked_value():
    """X26: the cross-entropy (X42) and 2.5 times the term."""
    total = 0.553411609936 + 2.5 * wsld_loss(STUDENT, TEACHER, TARGET).item()
    assert total == pytest.approx(9.982202681356, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_value_and_gradient_are_the_formulas_with_a_weight_held_fixed(temperature):
    student, teacher = normal(0, 9, 7), normal(1, 9, 7)
    y = targets(student)
    held = weights(student, teacher, y)
    ours = of(lambda s: wsld_loss(s, teacher, y, temperature), student)
    torch.testing.assert_close(ours, of(lambda s: soft(s, teacher, held, temperature), student))
    through = of(lambda s: soft(s, teacher, weights(s, teacher, y), temperature), student)
    assert not torch.allclose(ours[1], through[1])
    assert torch.autograd.gradcheck(
        lambda s: soft(s, teacher, held, temperature), student.clone().requires_grad_()
    )


@given(pairs(), temperatures)
def test_weighs_between_nothing_and_all_of_the_soft_cross_entropy(pair, t):
    y = targets(pair[0])
    value = wsld_loss(*pair, y, t)
    assert 0 <= value <= soft(*pair, torch.ones(()), t) + 1e-9


@given(pairs(), temperatures)
def test_a_constant_added_to_a_row_changes_nothing(pair, t):
    assert_shift_invariant(lambda s, z: wsld_loss(s, z, targets(s), t), pair)


def test_an_equal_student_weighs_a_row_by_one_less_than_1_over_e():
    student = normal(0, 6, 5)
    expected = soft(student, student, torch.tensor(1 - math.exp(-1), dtype=torch.float64), 2.0)
    torch.testing.assert_close(wsld_loss(student, student, targets(student)), expected, rtol=1e-5, atol=0)


def test_a_row_on_which_the_student_is_certain_and_right_counts_nothing():
    teacher = normal(0, 1, 5)
    certain = torch.tensor([[100.0, 0, 0, 0, 0]], dtype=torch.float64)
    right, wrong = torch.tensor([0]), torch.tensor([1])
    assert wsld_loss(certain, teacher, right) < 1e-9 < 1 < wsld_loss(certain, teacher, wrong)


@pytest.mark.parametrize("margin", [14.0, 16.0, 18.0])
def test_float32_weighs_two_certain_sides_as_float64_does(margin):
    """Cross-entropies about 1e-7 on both sides, where 1e-7 is added and a log-softmax rounds to 0."""
    sure = margin * torch.nn.functional.one_hot(torch.arange(4), 4).double()
    student, teacher = sure + 0.1 * normal(0, 4, 4), sure + 0.1 * normal(1, 4, 4)
    y = torch.arange(4)
    exact = wsld_loss(student.float().double(), teacher.float().double(), y)
    torch.testing.assert_close(
        wsld_loss(student.float(), teacher.float(), y).double(), exact, rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_temperature(temperature):
    with pytest.raises(ValueError, match="WSLD: temperature"):
        WSLD(temperature)
