import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.objectives.fkl import fkl_loss
from kdbench.objectives.js import JS, js_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, pairs
from tests.objectives.token_cases import STUDENT, TEACHER, assert_float32_is_close, vocabulary

skews = st.floats(0.05, 0.9)


def formula(student, teacher, skew):
    p, q = teacher.softmax(1), student.softmax(1)
    m = (1 - skew) * p + skew * q
    return (skew * q * (q / m).log() + (1 - skew) * p * (p / m).log()).sum(1).mean()


def test_worked_value():
    assert js_loss(STUDENT, TEACHER).item() == pytest.approx(0.04071483991695021, abs=1e-9)


@given(pairs())
def test_divided_by_a_vanishing_skew_is_the_reverse_divergence(pair):
    student, teacher = pair
    small = 1e-7
    torch.testing.assert_close(
        js_loss(student, teacher, small) / small, fkl_loss(teacher, student), rtol=1e-4, atol=1e-6
    )


@given(pairs(), skews)
def test_exchanging_the_sides_exchanges_the_shares(pair, skew):
    student, teacher = pair
    torch.testing.assert_close(js_loss(student, teacher, skew), js_loss(teacher, student, 1 - skew))


@given(pairs(), skews)
def test_never_negative_and_zero_on_itself(pair, skew):
    assert js_loss(*pair, skew) >= -1e-12
    assert js_loss(pair[0], pair[0], skew).abs() < 1e-12


@given(pairs(), skews)
def test_a_constant_added_to_a_row_changes_nothing(pair, skew):
    assert_shift_invariant(lambda s, z: js_loss(s, z, skew), pair)


@pytest.mark.parametrize("skew", [0.1, 0.5, 0.9])
def test_value_and_gradient(skew):
    assert_same(lambda s: js_loss(s, TEACHER, skew), lambda s: formula(s, TEACHER, skew), STUDENT)
    student, teacher = vocabulary()
    assert_float32_is_close(
        lambda s: js_loss(s, teacher, skew), lambda s: js_loss(s, teacher.float(), skew), student
    )


@pytest.mark.parametrize("skew", [-0.1, 1.0, float("nan"), 0.0])
def test_refuses(skew):
    with pytest.raises(ValueError, match="skew"):
        JS(skew)
