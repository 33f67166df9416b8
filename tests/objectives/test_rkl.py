import pytest
import torch
from hypothesis import given

from kdbench.objectives.abkd import abkd_loss
from kdbench.objectives.fkl import fkl_loss
from kdbench.objectives.rkl import rkl_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, pairs
from tests.objectives.token_cases import REVERSE, STUDENT, TEACHER, assert_float32_is_close, vocabulary


def test_worked_value():
    assert rkl_loss(STUDENT, TEACHER).item() == pytest.approx(REVERSE, abs=1e-9)


@given(pairs())
def test_is_the_forward_one_of_the_sides_exchanged_and_a_corner_of_abkd(pair):
    student, teacher = pair
    torch.testing.assert_close(rkl_loss(student, teacher), fkl_loss(teacher, student))
    torch.testing.assert_close(rkl_loss(*pair), abkd_loss(*pair, 0.0, 1.0, temperature=1.0))


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(rkl_loss, pair)


def test_value_and_gradient():
    def formula(s):
        p, q = TEACHER.softmax(1), s.softmax(1)
        return (q * (q / p).log()).sum(1).mean()

    assert_same(lambda s: rkl_loss(s, TEACHER), formula, STUDENT)
    student, teacher = vocabulary()
    assert_float32_is_close(lambda s: rkl_loss(s, teacher), lambda s: rkl_loss(s, teacher.float()), student)
