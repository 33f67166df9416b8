import pytest
from hypothesis import given

from kdbench.objectives.tvd import tvd_loss
from tests.objectives.cases import assert_same, assert_shift_invariant, pairs
from tests.objectives.token_cases import STUDENT, TEACHER, assert_float32_is_close, vocabulary


def test_worked_value():
    assert tvd_loss(STUDENT, TEACHER).item() == pytest.approx(0.3642583520083771, abs=1e-9)


@given(pairs())
def test_is_symmetric_between_0_and_1_and_0_on_itself(pair):
    student, teacher = pair
    assert tvd_loss(student, teacher) == tvd_loss(teacher, student)
    assert 0 <= tvd_loss(student, teacher) <= 1
    assert tvd_loss(student, student) == 0


def test_disjoint_sides_are_1_apart():
    assert tvd_loss(1e4 * STUDENT.sign(), -1e4 * STUDENT.sign()).item() == pytest.approx(1.0)


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(tvd_loss, pair)


def test_value_and_gradient():
    rows = [0, 1, 2, 4]  # row 3 has a corner: there p = q

    def formula(s):
        return (TEACHER[rows].softmax(1) - s.softmax(1)).abs().sum(1).mean() / 2

    assert_same(lambda s: tvd_loss(s, TEACHER[rows]), formula, STUDENT[rows])
    student, teacher = vocabulary()
    assert_float32_is_close(lambda s: tvd_loss(s, teacher), lambda s: tvd_loss(s, teacher.float()), student)
