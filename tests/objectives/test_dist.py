import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.dist import DIST, dist_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    normal,
    pairs,
    temperatures,
    value_and_gradient,
)


def rho(a: Tensor, b: Tensor) -> Tensor:
    """Pearson of two vectors, from covariance and standard deviations."""
    covariance = ((a - a.mean()) * (b - b.mean())).sum()
    return covariance / (len(a) * a.std(correction=0) * b.std(correction=0) + 1e-8)


def formula(student: Tensor, teacher: Tensor, beta: float, gamma: float, t: float) -> Tensor:
    q, p = (student / t).softmax(1), (teacher / t).softmax(1)
    inter = 1 - sum(rho(a, b) for a, b in zip(q, p, strict=True)) / len(q)
    intra = 1 - sum(rho(a, b) for a, b in zip(q.T, p.T, strict=True)) / q.shape[1]
    return t**2 * (beta * inter + gamma * intra)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 0.063335987198), (4.0, 1.688526792833)])
def test_worked_values(temperature, value):
    """X23, X24."""
    assert dist_loss(STUDENT, TEACHER, temperature=temperature).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 1.0), (2.0, 0.0), (0.0, 0.5)])
def test_value_and_gradient_are_the_formulas(beta, gamma, temperature):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(
        lambda s: dist_loss(s, teacher, beta, gamma, temperature),
        lambda s: formula(s, teacher, beta, gamma, temperature),
        student,
    )


@given(pairs(), temperatures)
def test_never_negative(pair, t):
    assert dist_loss(*pair, temperature=t) >= -1e-12


@given(temperatures)
def test_nearly_zero_on_itself(t):
    """Nearly: the 1e-8 in the denominator."""
    logits = normal(3, 6, 5)
    assert 0 <= dist_loss(logits, logits, temperature=t) < 2e-3 * t**2


@given(pairs(), temperatures)
def test_a_constant_added_to_a_row_changes_nothing(pair, t):
    assert_shift_invariant(lambda s, z: dist_loss(s, z, temperature=t), pair)


@pytest.mark.parametrize("certainty", [5.0, 12.0, 18.0, 25.0, 60.0])
def test_a_class_certain_in_every_row_keeps_its_precision(certainty):
    """Its probabilities differ by less than float32 resolves near 1; correlation still sees it."""
    student, teacher = normal(0, 6, 3, scale=1.0).float(), normal(1, 6, 3, scale=1.0).float()
    student[:, 0] += certainty
    value, gradient = value_and_gradient(lambda s: dist_loss(s, teacher, temperature=1.0), student)
    exact = value_and_gradient(lambda s: dist_loss(s, teacher.double(), temperature=1.0), student.double())
    torch.testing.assert_close((value.double(), gradient.double()), exact, rtol=1e-4, atol=1e-4)


def test_one_row_has_no_relation_within_a_class():
    student, teacher = normal(0, 1, 5), normal(1, 1, 5)
    value, gradient = value_and_gradient(lambda s: dist_loss(s, teacher, beta=0.0, temperature=1.0), student)
    assert value == 1
    assert gradient.isfinite().all()


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
@pytest.mark.parametrize("level", [0.0, 3.3, 1e4])
def test_constant_rows_are_uncorrelated_and_finite(side, level):
    constant, other = torch.full((4, 6), level), normal(0, 4, 6).float()
    student = other if side == "teacher" else constant
    teacher = other if side == "student" else constant
    value, gradient = value_and_gradient(lambda s: dist_loss(s, teacher, gamma=0.0, temperature=1.0), student)
    assert value.item() == pytest.approx(1.0, abs=1e-4)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"temperature": 0.0}, "temperature"), ({"beta": -1.0}, "beta"), ({"gamma": math.nan}, "gamma")],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=named):
        DIST(**wrong)
