import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.kd import KD, kd_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    normal,
    pairs,
    temperatures,
)


def formula(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    return t**2 * (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 0.193638788135), (4.0, 0.320926135484)])
def test_worked_values(temperature, value):
    """X1, X2."""
    assert kd_loss(STUDENT, TEACHER, temperature).item() == pytest.approx(value, abs=1e-9)


def test_by_hand():
    """Two classes, T = 2: the teacher's softened probabilities are 3/4 and 1/4, the student's 1/2 and 1/2."""
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert kd_loss(torch.zeros(1, 2), teacher, temperature=2.0).item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_value_and_gradient_are_the_formulas(temperature):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(
        lambda s: kd_loss(s, teacher, temperature), lambda s: formula(s, teacher, temperature), student
    )


@given(pairs(), temperatures)
def test_never_negative_and_zero_on_itself(pair, t):
    assert kd_loss(*pair, t) >= -1e-12
    assert kd_loss(pair[0], pair[0], t).abs() < 1e-12


@given(pairs(), temperatures)
def test_a_constant_added_to_a_row_changes_nothing(pair, t):
    assert_shift_invariant(lambda s, z: kd_loss(s, z, t), pair)


@given(pairs())
def test_a_high_temperature_matches_centred_logits(pair):
    centred = [logits - logits.mean(1, keepdim=True) for logits in pair]
    limit = (centred[0] - centred[1]).square().sum(1).mean() / (2 * centred[0].shape[1])
    torch.testing.assert_close(kd_loss(*pair, 1e4), limit, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_temperature(temperature):
    with pytest.raises(ValueError, match="temperature"):
        KD(temperature)
