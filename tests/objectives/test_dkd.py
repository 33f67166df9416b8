import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.dkd import DKD, dkd_loss
from kdbench.objectives.kd import kd_loss
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


def formula(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, t: float) -> Tensor:
    """Row by row on probabilities, without any masking."""
    total = torch.zeros((), dtype=student.dtype)
    for s, z, y in zip(student, teacher, target.tolist(), strict=True):
        q, p = (s / t).softmax(0), (z / t).softmax(0)
        others = [k for k in range(len(s)) if k != y]
        tckd = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        p_hat, q_hat = p[others] / (1 - p[y]), q[others] / (1 - q[y])
        total = total + alpha * tckd + beta * (p_hat * (p_hat / q_hat).log()).sum()
    return t**2 * total / len(student)


@pytest.mark.parametrize(
    ("alpha", "beta", "value"),
    [(1.0, 8.0, 1.109032633124), (1.0, 0.0, 0.267034869148), (0.0, 1.0, 0.105249720497)],
)
def test_worked_values(alpha, beta, value):
    """X21 and its two parts, TCKD and NCKD."""
    assert dkd_loss(STUDENT, TEACHER, TARGET, alpha, beta).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.0, 1.0), (2.0, 0.5)])
def test_value_and_gradient_are_the_formulas(alpha, beta, temperature):
    student, teacher = normal(0, 9, 7), normal(1, 9, 7)
    y = targets(student)
    assert_same(
        lambda s: dkd_loss(s, teacher, y, alpha, beta, temperature),
        lambda s: formula(s, teacher, y, alpha, beta, temperature),
        student,
    )


@given(pairs(), temperatures)
def test_decouples_the_divergence(pair, t):
    """Row by row: KL = TCKD + (1 - p_y) NCKD."""
    for student, teacher in zip(*(logits[:, None] for logits in pair), strict=True):
        y = targets(student)
        tckd, nckd = (dkd_loss(student, teacher, y, alpha, 1 - alpha, t) for alpha in (1.0, 0.0))
        p_y = (teacher / t).softmax(1)[0, y[0]]
        torch.testing.assert_close(
            tckd + (1 - p_y) * nckd, kd_loss(student, teacher, t), rtol=1e-7, atol=1e-9
        )


@given(pairs(), temperatures)
def test_never_negative_and_zero_on_itself(pair, t):
    y = targets(pair[0])
    assert dkd_loss(*pair, y, temperature=t) >= -1e-10
    assert dkd_loss(pair[0], pair[0], y, temperature=t).abs() < 1e-10


@given(pairs(), temperatures)
def test_a_constant_added_to_a_row_changes_nothing(pair, t):
    assert_shift_invariant(lambda s, z: dkd_loss(s, z, targets(s), temperature=t), pair)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_two_classes_have_nothing_but_the_target(scale):
    student, teacher = scale * normal(0, 4, 2).float(), scale * normal(1, 4, 2).float()
    y = targets(student)
    value, gradient = value_and_gradient(lambda s: dkd_loss(s, teacher, y, alpha=0.0, beta=1.0), student)
    assert value == 0
    assert (gradient == 0).all()
    value, gradient = value_and_gradient(lambda s: dkd_loss(s, teacher, y), student)
    torch.testing.assert_close(value, kd_loss(student, teacher))
    assert gradient.isfinite().all()


def test_the_others_count_below_a_certain_target():
    """The target 1e4 above the rest: the others' logits are still told apart in float32."""
    student, teacher = normal(0, 4, 5), normal(1, 4, 5)
    y = targets(student)
    expected = dkd_loss(student, teacher, y, alpha=0.0)
    certain = 1e4 * torch.nn.functional.one_hot(y, 5)
    single = dkd_loss((student + certain).float(), (teacher + certain).float(), y, alpha=0.0)
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"temperature": 0.0}, "temperature"), ({"alpha": -1.0}, "alpha"), ({"beta": math.nan}, "beta")],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=named):
        DKD(**wrong)
