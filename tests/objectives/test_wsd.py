import pytest
import torch
from hypothesis import given

from kdbench.objectives.fkl import fkl_loss
from kdbench.objectives.rkl import rkl_loss
from kdbench.objectives.wsd import WSD, wsd_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, pairs
from tests.objectives.token_cases import (
    CROSS,
    FORWARD,
    REVERSE,
    STUDENT,
    TEACHER,
    assert_float32_is_close,
    teacher_entropy,
    vocabulary,
)


@pytest.mark.parametrize("reverse", [0.1, 0.5, 0.9])
def test_worked_value_and_the_published_one(reverse):
    """The published code's forward part is a cross-entropy."""
    ours = wsd_loss(STUDENT, TEACHER, reverse).item()
    assert ours == pytest.approx((1 - reverse) * FORWARD + reverse * REVERSE, abs=1e-9)
    published = (1 - reverse) * CROSS + reverse * REVERSE
    assert ours + (1 - reverse) * teacher_entropy() == pytest.approx(published, abs=1e-9)


@given(pairs())
def test_ends_are_the_two_divergences(pair):
    torch.testing.assert_close(wsd_loss(*pair, reverse=0.0), fkl_loss(*pair))
    torch.testing.assert_close(wsd_loss(*pair, reverse=1.0), rkl_loss(*pair))


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(wsd_loss, pair)


def test_value_and_gradient():
    def formula(s):
        p, q = TEACHER.softmax(1), s.softmax(1)
        return ((0.7 * p - 0.3 * q) * (p / q).log()).sum(1).mean()

    assert_same(lambda s: wsd_loss(s, TEACHER, 0.3), formula, STUDENT)
    student, teacher = vocabulary()
    assert_float32_is_close(lambda s: wsd_loss(s, teacher), lambda s: wsd_loss(s, teacher.float()), student)


@pytest.mark.parametrize("reverse", [-0.1, 1.1, float("nan")])
def test_refuses(reverse):
    with pytest.raises(ValueError, match="reverse"):
        WSD(reverse)
