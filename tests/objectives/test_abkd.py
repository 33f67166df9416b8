import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.abkd import ABKD, abkd_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    normal,
    pairs,
    value_and_gradient,
)

AXES = [(0.5, 0.0), (0.0, 0.5), (0.5, -0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (-0.5, 0.0), (0.0, -0.3)]
exponents = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(-1.0, 2.0))


def formula(student: Tensor, teacher: Tensor, a: float, b: float, t: float) -> Tensor:
    """The paper's general formula and its limits, on probabilities."""
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    if a == b == 0:
        cells = (q.log() - p.log()) ** 2 / 2
    elif a == 0:
        cells = (q**b * (q**b / p**b).log() - q**b + p**b) / b**2
    elif b == 0:
        cells = (p**a * (p**a / q**a).log() - p**a + q**a) / a**2
    elif a + b == 0:
        cells = ((q**a / p**a).log() + p**a / q**a - 1) / a**2
    else:
        cells = -(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)) / (a * b)
    return cells.sum(1).mean()


@pytest.mark.parametrize(
    ("alpha", "beta", "temperature", "value"),
    [
        (0.8, 0.3, 4.0, 0.018086659757),
        (0.8, 0.3, 1.0, 0.177122289809),
        (0.9, 0.2, 4.0, 0.018064867460),
        (1.0, 0.0, 4.0, 0.020057883468),
        (0.0, 1.0, 4.0, 0.020399793264),
        (0.0, 0.0, 4.0, 0.060923514767),
        (0.5, -0.5, 4.0, 0.029973173697),
        (0.5, 0.5, 4.0, 0.020202754534),
        (1.0, 1.0, 4.0, 0.007097654081),
        (0.2, 0.7, 1.0, 0.284646447280),  # two tokens of one sequence
    ],
)
def test_worked_values_of_the_published_code(alpha, beta, temperature, value):
    """X7 to X16."""
    ours = abkd_loss(STUDENT, TEACHER, alpha, beta, temperature, official_scale=True)
    assert ours.item() == pytest.approx(value, abs=1e-9)


def test_the_published_code_has_half_the_limit():
    """alpha = 0.5: the factors between the published axes and the continuous values."""
    assert abkd_loss(STUDENT, TEACHER, 0.5, -0.5).item() == pytest.approx(0.059946347, abs=1e-9)
    for alpha, beta in ((0.5, 0.0), (0.0, 0.5)):
        ours, published = (
            abkd_loss(STUDENT, TEACHER, alpha, beta, official_scale=flag) for flag in (False, True)
        )
        assert ours.item() == pytest.approx(2 * published.item(), rel=1e-12)
    assert abkd_loss(STUDENT, TEACHER, 0.5, 0.0).item() == pytest.approx(0.034616546, abs=1e-7)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.8, 0.3), (1.0, 1.0), (1.5, -0.5), (-0.5, 1.5), (-0.4, -0.3), (0.3, 0.01), *AXES]
)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value_and_gradient_are_the_formulas(alpha, beta, temperature):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    assert_same(
        lambda s: abkd_loss(s, teacher, alpha, beta, temperature),
        lambda s: formula(s, teacher, alpha, beta, temperature),
        student,
    )


@pytest.mark.parametrize(("alpha", "beta"), AXES)
@pytest.mark.parametrize(
    "step", [(1e-7, 0.0), (-1e-7, 0.0), (0.0, 1e-7), (0.0, -1e-7), (1e-7, 1e-7), (3e-3, 0.0)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_continuous_at_the_axes(alpha, beta, step, dtype):
    """Value and gradient, also where the general formula would divide rounding noise by 1e-7."""
    student, teacher = normal(0, 8, 10, scale=3.0), normal(1, 8, 10, scale=3.0)
    limit = value_and_gradient(lambda s: formula(s, teacher, alpha, beta, 4.0), student)
    close = value_and_gradient(
        lambda s: abkd_loss(s, teacher.to(dtype), alpha + step[0], beta + step[1]), student.to(dtype)
    )
    slack = max(2e-5, 20 * max(map(abs, step)))
    torch.testing.assert_close(close[0].double(), limit[0], rtol=slack, atol=0.0)
    assert (close[1].double() - limit[1]).norm() < slack * limit[1].norm()


@pytest.mark.parametrize(
    ("alpha", "beta"), [(1e-7, 0.7), (0.7, 1e-7), (1e-3, 1e-3), (0.6, -0.6 + 1e-7), (0.02, 0.0)]
)
def test_float32_is_precise_near_the_axes(alpha, beta):
    student, teacher = normal(0, 8, 100), normal(1, 8, 100)
    exact = value_and_gradient(lambda s: abkd_loss(s, teacher, alpha, beta), student)
    single = value_and_gradient(lambda s: abkd_loss(s, teacher.float(), alpha, beta), student.float())
    torch.testing.assert_close(single[0].double(), exact[0], rtol=1e-5, atol=0.0)
    assert (single[1].double() - exact[1]).norm() < 2e-5 * exact[1].norm()


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (1.5, -0.5), (-0.5, 1.5)])
@pytest.mark.parametrize("gap", [2e-3, 6e-3, 1.2e-2])
def test_near_its_minimum_is_the_formula(alpha, beta, gap):
    """Where the exponents nearly meet, on both sides of the change to the power series."""
    teacher = normal(1, 5, 7)
    student = teacher + gap * normal(0, 5, 7).sign()
    ours, exact = abkd_loss(student, teacher, alpha, beta, 1.0), formula(student, teacher, alpha, beta, 1.0)
    assert ours.item() == pytest.approx(exact.item(), rel=2e-9)


@given(pairs())
def test_special_cases(pair):
    p, q = (logits.softmax(1) for logits in reversed(pair))
    cases = {
        (1.0, 0.0): p * (p / q).log(),
        (0.0, 1.0): q * (q / p).log(),
        (1.0, 1.0): (p - q) ** 2 / 2,
        (0.5, 0.5): 2 * (p.sqrt() - q.sqrt()) ** 2,
    }
    for (alpha, beta), cells in cases.items():
        torch.testing.assert_close(abkd_loss(*pair, alpha, beta, temperature=1.0), cells.sum(1).mean())


@given(pairs(), exponents, exponents)
def test_never_negative_and_zero_on_itself(pair, alpha, beta):
    assert abkd_loss(*pair, alpha, beta) >= -1e-12
    assert abkd_loss(pair[0], pair[0], alpha, beta).abs() < 1e-12


@given(pairs(), exponents, exponents)
def test_swapping_the_sides_swaps_the_exponents(pair, alpha, beta):
    student, teacher = pair
    forth, back = abkd_loss(student, teacher, alpha, beta), abkd_loss(teacher, student, beta, alpha)
    torch.testing.assert_close(forth, back, rtol=1e-7, atol=1e-10)


@given(pairs(), exponents, exponents)
def test_a_constant_added_to_a_row_changes_nothing(pair, alpha, beta):
    assert_shift_invariant(lambda s, z: abkd_loss(s, z, alpha, beta), pair)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.8, 0.3), (-0.5, 1.5), (1.5, -0.5), (-1.0, -1.0), (1e-7, 1.0), *AXES]
)
@pytest.mark.parametrize("scale", [60.0, 1e4])
def test_finite_at_extreme_logits(alpha, beta, scale):
    student, teacher = (scale * normal(seed, 6, 10).sign() for seed in (0, 1))
    value, gradient = value_and_gradient(
        lambda s: abkd_loss(s, teacher.float(), alpha, beta), student.float()
    )
    exact = abkd_loss(student, teacher, alpha, beta)
    assert gradient.isfinite().all()
    torch.testing.assert_close(value.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"alpha": math.nan}, "alpha"),
        ({"beta": math.inf}, "beta"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
    ],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=named):
        ABKD(**{"alpha": 0.8, "beta": 0.3} | wrong)
