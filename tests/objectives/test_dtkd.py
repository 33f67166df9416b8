import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.dtkd import DTKD, dtkd_loss
from kdbench.objectives.kd import kd_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    normal,
    pairs,
    temperatures,
    value_and_gradient,
)


def shares(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    u, v = (torch.stack([max(row, key=Tensor.item) for row in z]) for z in (student, teacher))
    return 2 * u / (u + v), 2 * v / (u + v)


def formula(student: Tensor, teacher: Tensor, t_s: Tensor, t_t: Tensor, *parameters: float) -> Tensor:
    def divergence(a: Tensor | float, b: Tensor | float) -> Tensor:
        p, q = (teacher / b).softmax(1), (student / a).softmax(1)
        return (p * (p / q).log()).sum(1)

    alpha, beta, t = parameters
    t_s, t_t = t * t_s, t * t_t
    dynamic = t_s * t_t * divergence(t_s[:, None], t_t[:, None])
    return (alpha * dynamic + beta * t**2 * divergence(t, t)).mean()


def test_worked_values():
    """X28 without the cross-entropy (X42), and its DT term."""
    assert dtkd_loss(STUDENT, TEACHER).item() == pytest.approx(1.127508359008 - 0.553411609936, abs=1e-9)
    assert dtkd_loss(STUDENT, TEACHER, 1.0, 0.0).item() == pytest.approx(0.084390204530, abs=1e-9)


@pytest.mark.parametrize("parameters", [(3.0, 1.0, 4.0), (1.0, 0.0, 1.0), (0.0, 2.0, 3.0)])
def test_value_and_gradient_are_the_formulas(parameters):
    student, teacher = normal(0, 9, 7), normal(1, 9, 7)
    assert_same(
        lambda s: dtkd_loss(s, teacher, *parameters),
        lambda s: formula(s, teacher, *shares(s, teacher), *parameters),
        student,
    )


def test_detached_temperatures_keep_the_value_and_pass_no_gradient():
    student, teacher = normal(0, 9, 7), normal(1, 9, 7)
    fixed = shares(student, teacher)
    ours = value_and_gradient(lambda s: dtkd_loss(s, teacher, detach=True), student)
    expected = value_and_gradient(lambda s: formula(s, teacher, *fixed, 3.0, 1.0, 4.0), student)
    torch.testing.assert_close(ours, expected)
    official = value_and_gradient(lambda s: dtkd_loss(s, teacher), student)
    torch.testing.assert_close(ours[0], official[0])
    assert not torch.allclose(ours[1], official[1])


@given(pairs(), temperatures)
def test_never_negative_and_zero_on_itself(pair, t):
    assert dtkd_loss(*pair, temperature=t) >= -1e-9
    assert dtkd_loss(pair[0], pair[0], temperature=t).abs() < 1e-9


@given(pairs(), temperatures)
def test_is_the_plain_divergence_twice_where_both_sides_peak_alike(pair, t):
    student, teacher = (z - z.amax(1, keepdim=True) + 5 for z in pair)
    torch.testing.assert_close(
        dtkd_loss(student, teacher, 1.0, 1.0, t), 2 * kd_loss(student, teacher, t), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize(
    ("u", "v"), [(1.0, -1.0), (-2.0, -3.0), (0.0, 0.0), (-5.0, 8.0), (3.0, -9.0), (1e-9, 4.0)]
)
def test_finite_where_the_published_temperatures_are_not_positive(u, v):
    student, teacher = (
        z - z.amax(1, keepdim=True) + top for z, top in ((normal(0, 4, 6), u), (normal(1, 4, 6), v))
    )
    exact = dtkd_loss(student, teacher)
    value, gradient = value_and_gradient(lambda s: dtkd_loss(s, teacher.float()), student.float())
    assert exact >= kd_loss(student, teacher)
    assert value.item() == pytest.approx(exact.item(), rel=1e-3)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e6


def test_float32_tells_logits_apart_at_a_tiny_temperature():
    """Logits some steps of float32 apart at -1e4, beside a teacher that leaves them next to no temperature."""
    student = torch.arange(24).view(4, 6) % 7 / 1024 - 1e4
    teacher = 1e4 + normal(1, 4, 6).float()
    exact = dtkd_loss(student.double(), teacher.double(), beta=0.0)
    assert exact > 0.05
    assert dtkd_loss(student, teacher, beta=0.0).item() == pytest.approx(exact.item(), rel=1e-3)


def test_the_floor_is_a_clamp_of_the_largest_logits():
    student, teacher = normal(0, 4, 6, scale=0.01), normal(1, 4, 6)
    student, teacher = (z - z.amax(1, keepdim=True) for z in (student, teacher))
    t_s, t_t = torch.full((2, 4), 2 / 2.001, dtype=torch.float64) * torch.tensor([[1e-3], [2.0]])
    torch.testing.assert_close(
        dtkd_loss(student - 1, teacher + 2, 1.0, 0.0), formula(student, teacher, t_s, t_t, 1.0, 0.0, 4.0)
    )


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"temperature": 0.0}, "temperature"), ({"alpha": -1.0}, "alpha"), ({"beta": math.nan}, "beta")],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=f"DTKD: {named}"):
        DTKD(**wrong)
