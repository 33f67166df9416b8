"""Other maps that flatten the teacher than TTM's power."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from kdbench.objectives.ttm import TRANSFORMS, TTM, transform_teacher, ttm_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    gammas,
    normal,
    pairs,
)

transforms = st.sampled_from(TRANSFORMS)


def flat(teacher: Tensor, gamma: float, transform: str) -> Tensor:
    """The transformed teacher, on probabilities."""
    p = teacher.softmax(1)
    mass = {
        "power": p**gamma,
        "mix": gamma * p + (1 - gamma) / p.shape[1],
        "log1p": (1 + math.expm1(1 / gamma - 1) * p).log(),
    }[transform]
    return mass / mass.sum(1, keepdim=True)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.99])
def test_value_and_gradient_are_the_formulas(transform, gamma):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    p = flat(teacher, gamma, transform)
    assert_same(
        lambda s: ttm_loss(s, teacher, gamma, transform),
        lambda s: (p * (p / s.softmax(1)).log()).sum(1).mean(),
        student,
    )


@pytest.mark.parametrize(
    ("transform", "ratio"),
    [
        ("power", 3**0.5),
        ("mix", 5 / 3),
        ("log1p", math.log((1 + 3 * math.e) / 4) / math.log((3 + math.e) / 4)),
    ],
)
def test_three_quarters_and_one_quarter_by_hand(transform, ratio):
    """The ratio of the two classes at gamma = 1/2, which was 3."""
    log_p = transform_teacher(torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64), 0.5, transform)
    assert (log_p[0, 0] - log_p[0, 1]).exp().item() == pytest.approx(ratio, rel=1e-12)


@given(pairs(), transforms)
def test_gamma_1_changes_nothing_and_gamma_near_1_hardly_anything(pair, transform):
    log_p = pair[1].log_softmax(1)
    assert_close(transform_teacher(pair[1], 1.0, transform), log_p, rtol=1e-12, atol=1e-12)
    assert_close(transform_teacher(pair[1], 1 - 1e-9, transform).exp(), log_p.exp(), rtol=1e-7, atol=1e-7)


@given(pairs(), transforms)
def test_gamma_near_0_is_uniform(pair, transform):
    log_p = transform_teacher(pair[1], 1e-4, transform)
    assert (log_p + math.log(log_p.shape[1])).abs().max() < 1e-2


@given(pairs(), gammas, transforms)
def test_keeps_the_order_of_the_classes_and_never_sharpens(pair, gamma, transform):
    teacher = pair[1]
    log_p, plain = transform_teacher(teacher, gamma, transform), teacher.log_softmax(1)
    assert_close(log_p.exp().sum(1), torch.ones(len(teacher), dtype=teacher.dtype))
    order = teacher.argsort(dim=1)
    steps = log_p.gather(1, order).diff(dim=1)
    assert (steps >= -1e-12).all()
    assert (steps <= plain.gather(1, order).diff(dim=1) + 1e-12).all()


@given(pairs(), st.floats(0.05, 0.95), transforms)
def test_is_strictly_flatter_below_1(pair, gamma, transform):
    plain = pair[1].log_softmax(1)
    assume(bool((plain.amax(1) - plain.amin(1) > 0.1).all()))
    log_p = transform_teacher(pair[1], gamma, transform)
    assert (log_p.amax(1) < plain.amax(1)).all()


@given(pairs(), gammas, transforms)
def test_a_constant_added_to_a_row_changes_nothing(pair, gamma, transform):
    assert_shift_invariant(lambda s, z: ttm_loss(s, z, gamma, transform), pair)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("gamma", [0.01, 0.3, 1.0])
def test_finite_and_as_in_float64_at_extreme_logits(transform, gamma):
    student, teacher = (1e4 * normal(seed, 6, 10).clamp(-1, 1).float() for seed in (0, 1))
    leaf = student.clone().requires_grad_()
    value = ttm_loss(leaf, teacher, gamma, transform)
    value.backward()
    assert leaf.grad.isfinite().all()
    assert transform_teacher(teacher, gamma, transform).isfinite().all()
    assert_close(
        value.double(), ttm_loss(student.double(), teacher.double(), gamma, transform), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("transform", "gap"), [("power", 50.0), ("mix", 0.0), ("log1p", 100.0)])
def test_what_becomes_of_two_classes_that_are_far_below(transform, gap):
    teacher = torch.tensor([[0.0, -100.0, -200.0]], dtype=torch.float64)
    log_p = transform_teacher(teacher, 0.5, transform)
    assert (log_p[0, 1] - log_p[0, 2]).item() == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"transform": "sqrt"}, "transform must be power, mix or log1p, got 'sqrt'"),
        ({"gamma": 1.5, "transform": "mix"}, r"gamma must be in \(0, 1\] with transform=mix, got 1.5"),
        ({"gamma": 0.0, "transform": "log1p"}, "gamma"),
    ],
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=named):
        TTM(**{"gamma": 0.5} | wrong)


def test_the_function_knows_its_transforms_too():
    with pytest.raises(ValueError, match="power, mix or log1p"):
        ttm_loss(STUDENT, TEACHER, 1.0, "sqrt")
    assert TTM(2.0).gamma == 2.0  # a sharper teacher, by the power alone
