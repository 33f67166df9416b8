import math

import pytest
import torch
from hypothesis import given

from kdbench.objectives.abkd import abkd_loss
from kdbench.objectives.alphanet import AlphaNet, alphanet_loss
from kdbench.objectives.fkl import fkl_loss
from kdbench.objectives.rkl import rkl_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, pairs, value_and_gradient
from tests.objectives.token_cases import (
    FORWARD,
    REVERSE,
    STUDENT,
    TEACHER,
    assert_float32_is_close,
    vocabulary,
)


@pytest.mark.parametrize(
    ("exponents", "value"),
    [
        ((0.5, 0.5), 0.44690920239777104),
        ((1.0, 1.0), FORWARD),
        ((0.0, 0.0), REVERSE),
        ((2.0, 2.0), 0.6771310670348465),
    ],
)
def test_worked_values_of_one_exponent(exponents, value):
    assert alphanet_loss(STUDENT, TEACHER, *exponents).item() == pytest.approx(value, abs=1e-9)


@given(pairs())
def test_is_the_larger_divergence_of_each_row(pair):
    rows = [(s[None], t[None]) for s, t in zip(*pair, strict=True)]
    larger = torch.stack([torch.maximum(fkl_loss(*row), rkl_loss(*row)) for row in rows]).mean()
    torch.testing.assert_close(alphanet_loss(*pair, 0.0, 1.0), larger)


@given(pairs())
def test_is_abkd_where_both_exponents_are_one(pair):
    torch.testing.assert_close(alphanet_loss(*pair, 0.3, 0.3), abkd_loss(*pair, 0.3, 0.7, temperature=1.0))


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(lambda s, z: alphanet_loss(s, z, 0.0, 1.0), pair)


def test_value_and_gradient():
    rows = [0, 1, 2, 4]

    def formula(s):
        p, q = TEACHER[rows].softmax(1), s.softmax(1)
        return torch.maximum(((p**2 / q).sum(1) - 1) / 2, (q * (q / p).log()).sum(1)).mean()

    assert_same(lambda s: alphanet_loss(s, TEACHER[rows], 2.0, 0.0), formula, STUDENT[rows])
    student, teacher = vocabulary()
    assert_float32_is_close(
        lambda s: alphanet_loss(s, teacher, 0.0, 1.0),
        lambda s: alphanet_loss(s, teacher.float(), 0.0, 1.0),
        student,
    )


def test_finite_at_negative_exponents():
    student, teacher = (1e4 * logits.float().sign() for logits in vocabulary())
    value, gradient = value_and_gradient(lambda s: alphanet_loss(s, teacher, -1.0, 1.0), student)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("wrong", [(math.nan, 1.0), (0.0, math.inf)])
def test_refuses(wrong):
    with pytest.raises(ValueError, match="alpha" if math.isnan(wrong[0]) else "beta"):
        AlphaNet(*wrong)
