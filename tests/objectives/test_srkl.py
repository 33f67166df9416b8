import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.objectives.rkl import rkl_loss
from kdbench.objectives.srkl import SRKL, srkl_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, pairs
from tests.objectives.token_cases import STUDENT, TEACHER, assert_float32_is_close, vocabulary

skews = st.floats(0.0, 0.9)


def formula(student, teacher, skew):
    p, q = teacher.softmax(1), student.softmax(1)
    return (q * (q / ((1 - skew) * p + skew * q)).log()).sum(1).mean()


def test_worked_value():
    assert srkl_loss(STUDENT, TEACHER).item() == pytest.approx(0.35499570806673997, abs=1e-9)


@given(pairs())
def test_without_skew_is_the_plain_divergence(pair):
    torch.testing.assert_close(srkl_loss(*pair, 0.0), rkl_loss(*pair))
    torch.testing.assert_close(srkl_loss(*pair, 1e-12), rkl_loss(*pair), rtol=1e-6, atol=1e-9)


@given(pairs(), skews)
def test_never_negative_and_zero_on_itself(pair, skew):
    assert srkl_loss(*pair, skew) >= -1e-12
    assert srkl_loss(pair[0], pair[0], skew).abs() < 1e-12


@given(pairs(), skews)
def test_a_constant_added_to_a_row_changes_nothing(pair, skew):
    assert_shift_invariant(lambda s, z: srkl_loss(s, z, skew), pair)


@pytest.mark.parametrize("skew", [0.1, 0.5, 0.9])
def test_value_and_gradient(skew):
    assert_same(lambda s: srkl_loss(s, TEACHER, skew), lambda s: formula(s, TEACHER, skew), STUDENT)
    student, teacher = vocabulary()
    assert_float32_is_close(
        lambda s: srkl_loss(s, teacher, skew), lambda s: srkl_loss(s, teacher.float(), skew), student
    )


@pytest.mark.parametrize("skew", [-0.1, 1.0, float("nan")])
def test_refuses(skew):
    with pytest.raises(ValueError, match="skew"):
        SRKL(skew)
