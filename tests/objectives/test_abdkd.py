import math

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from kdbench.objectives.abdkd import ABDKD, abdkd_loss
from kdbench.objectives.dkd import dkd_loss
from tests.objectives.cases import (
    STUDENT,
    TARGET,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    normal,
    pairs,
    targets,
    temperatures,
    value_and_gradient,
)


def formula(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    a: float,
    b: float,
    weights: tuple[float, float],
    t: float,
) -> Tensor:
    """Row by row on probabilities, without any masking."""
    total = torch.zeros((), dtype=student.dtype)
    for s, z, y in zip(student, teacher, target.tolist(), strict=True):
        q, p = (s / t).softmax(0), (z / t).softmax(0)
        others = [k for k in range(len(s)) if k != y]
        tckd = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        p_hat, q_hat = p[others] / (1 - p[y]), q[others] / (1 - q[y])
        cells = p_hat**a * q_hat**b - a / (a + b) * p_hat ** (a + b) - b / (a + b) * q_hat ** (a + b)
        total = total + weights[0] * tckd - weights[1] * cells.sum() / (a * b)
    return t**2 * total / len(student)


def test_worked_value():
    """X22."""
    value = abdkd_loss(STUDENT, TEACHER, TARGET, 0.8, 0.3).item()
    assert value == pytest.approx(0.856157785433, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (1.2, -0.2), (0.8, 0.3)])
@pytest.mark.parametrize("weights", [(1.0, 6.0), (0.5, 2.0)])
def test_value_and_gradient_are_the_formulas(alpha, beta, weights, temperature):
    student, teacher = normal(0, 9, 7), normal(1, 9, 7)
    y = targets(student)
    assert_same(
        lambda s: abdkd_loss(s, teacher, y, alpha, beta, *weights, temperature),
        lambda s: formula(s, teacher, y, alpha, beta, weights, temperature),
        student,
    )


@given(pairs(), temperatures)
def test_is_dkd_at_1_and_0(pair, t):
    y = targets(pair[0])
    ours = abdkd_loss(*pair, y, 1.0, 0.0, target_weight=2.0, other_weight=3.0, temperature=t)
    assert_close(ours, dkd_loss(*pair, y, alpha=2.0, beta=3.0, temperature=t), rtol=1e-8, atol=1e-10)


@given(pairs(), temperatures)
def test_never_negative_and_zero_on_itself(pair, t):
    y = targets(pair[0])
    assert abdkd_loss(*pair, y, 0.5, 0.5, temperature=t) >= -1e-10
    assert abdkd_loss(pair[0], pair[0], y, 0.5, 0.5, temperature=t).abs() < 1e-10


@given(pairs(), temperatures)
def test_a_constant_added_to_a_row_changes_nothing(pair, t):
    assert_shift_invariant(lambda s, z: abdkd_loss(s, z, targets(s), 0.5, 0.5, temperature=t), pair)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.0, 1.0), (0.5, -0.5)])
def test_two_classes_have_nothing_but_the_target(alpha, beta):
    student, teacher = 1e4 * normal(0, 4, 2).float(), 1e4 * normal(1, 4, 2).float()
    y = targets(student)
    value, gradient = value_and_gradient(lambda s: abdkd_loss(s, teacher, y, alpha, beta), student)
    assert_close(value, dkd_loss(student, teacher, y, beta=0.0))
    assert gradient.isfinite().all()


def test_the_published_scale_is_half_the_limit_at_alpha_a_half():
    ours, published = (
        abdkd_loss(STUDENT, TEACHER, TARGET, 0.5, 0.0, target_weight=0.0, official_scale=flag)
        for flag in (False, True)
    )
    assert ours.item() == pytest.approx(2 * published.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"alpha": math.nan}, "alpha"),
        ({"beta": math.inf}, "beta"),
        ({"target_weight": -1.0}, "target_weight"),
        ({"other_weight": math.inf}, "other_weight"),
    ],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=f"ABDKD: {named}"):
        ABDKD(**{"alpha": 0.5, "beta": 0.5} | wrong)
