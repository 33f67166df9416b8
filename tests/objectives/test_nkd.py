import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.nkd import NKD, nkd_loss
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


def formula(student: Tensor, teacher: Tensor, target: Tensor, gamma: float, t: float) -> Tensor:
    """Row by row on probabilities, without any masking."""
    total = torch.zeros((), dtype=student.dtype)
    for s, z, y in zip(student, teacher, target.tolist(), strict=True):
        others = [k for k in range(len(s)) if k != y]
        p_hat, q_hat = (z[others] / t).softmax(0), (s[others] / t).softmax(0)
        total = total - z.softmax(0)[y] * s.softmax(0)[y].log()
        total = total - gamma * t**2 * (p_hat * q_hat.log()).sum()
    return total / len(student)


def test_worked_value():
    """X25."""
    assert nkd_loss(STUDENT, TEACHER, TARGET).item() == pytest.approx(1.522399270056, abs=1e-9)


@pytest.mark.parametrize(("gamma", "temperature"), [(1.5, 1.0), (3.5, 3.0), (0.0, 3.0)])
def test_value_and_gradient_are_the_formulas(gamma, temperature):
    student, teacher = normal(0, 9, 7), normal(1, 9, 7)
    y = targets(student)
    assert_same(
        lambda s: nkd_loss(s, teacher, y, gamma, temperature),
        lambda s: formula(s, teacher, y, gamma, temperature),
        student,
    )


@given(pairs(), temperatures)
def test_a_constant_added_to_a_row_changes_nothing(pair, t):
    assert_shift_invariant(lambda s, z: nkd_loss(s, z, targets(s), temperature=t), pair)


@given(pairs(), temperatures)
def test_the_other_classes_are_learned_best_from_the_teacher_itself(pair, t):
    """A cross-entropy among them: least, at the teacher's own entropy, where the student has its logits."""
    student, teacher = pair
    y = targets(student)
    at_target = nkd_loss(student, teacher, y, gamma=0.0), nkd_loss(teacher, teacher, y, gamma=0.0)
    here = nkd_loss(student, teacher, y, 1.0, t) - at_target[0]
    best = nkd_loss(teacher, teacher, y, 1.0, t) - at_target[1]
    assert here >= best - 1e-9
    assert best >= 0


def test_two_classes_have_nothing_but_the_target():
    student, teacher = normal(0, 4, 2), normal(1, 4, 2)
    y = targets(student)
    both = [
        value_and_gradient(lambda s, g=gamma: nkd_loss(s, teacher, y, g), student) for gamma in (0.0, 7.0)
    ]
    torch.testing.assert_close(*both)


def test_the_others_count_below_a_certain_target():
    """The target 1e4 above the rest: the others' logits are still told apart in float32."""
    student, teacher = normal(0, 4, 5), normal(1, 4, 5)
    y = targets(student)
    certain = 1e4 * torch.nn.functional.one_hot(y, 5)
    expected = nkd_loss(student + certain, teacher + certain, y)
    single = nkd_loss((student + certain).float(), (teacher + certain).float(), y)
    assert expected > 1
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"temperature": 0.0}, "temperature"), ({"gamma": -1.0}, "gamma"), ({"gamma": math.nan}, "gamma")],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=f"NKD: {named}"):
        NKD(**wrong)
