import pytest
import torch
from hypothesis import given

from kdbench.objectives.abkd import abkd_loss
from kdbench.objectives.fkl import fkl_loss
from kdbench.objectives.kd import kd_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, pairs
from tests.objectives.token_cases import (
    CROSS,
    FORWARD,
    STUDENT,
    TEACHER,
    assert_float32_is_close,
    teacher_entropy,
    vocabulary,
)


def test_worked_value():
    assert fkl_loss(STUDENT, TEACHER).item() == pytest.approx(FORWARD, abs=1e-9)


def test_the_published_cross_entropy_is_larger_by_the_teachers_entropy():
    assert fkl_loss(STUDENT, TEACHER).item() + teacher_entropy() == pytest.approx(CROSS, abs=1e-9)


@given(pairs())
def test_is_kd_without_temperature_and_a_corner_of_abkd(pair):
    torch.testing.assert_close(fkl_loss(*pair), kd_loss(*pair, temperature=1.0))
    torch.testing.assert_close(fkl_loss(*pair), abkd_loss(*pair, 1.0, 0.0, temperature=1.0))


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(fkl_loss, pair)


def test_value_and_gradient():
    def formula(s):
        p, q = TEACHER.softmax(1), s.softmax(1)
        return (p * (p / q).log()).sum(1).mean()

    assert_same(lambda s: fkl_loss(s, TEACHER), formula, STUDENT)
    student, teacher = vocabulary()
    assert_float32_is_close(lambda s: fkl_loss(s, teacher), lambda s: fkl_loss(s, teacher.float()), student)
