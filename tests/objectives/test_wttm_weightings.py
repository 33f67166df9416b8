"""How WTTM weighs a row by the softness of its teacher."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.objectives.ttm import ttm_loss
from kdbench.objectives.wttm import WEIGHTINGS, WTTM, wttm_loss
from tests.objectives.cases import STUDENT, TEACHER, assert_same, gammas, normal, pairs, value_and_gradient


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_the_shannon_weighting_is_its_formula(gamma):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    p = teacher.softmax(1)
    weight = (-(1 - gamma) * (p * p.log()).sum(1)).exp()
    soft = p**gamma / (p**gamma).sum(1, keepdim=True)
    assert_same(
        lambda s: wttm_loss(s, teacher, gamma, "shannon"),
        lambda s: (weight * (soft * (soft / s.softmax(1)).log()).sum(1)).mean(),
        student,
    )


@given(pairs(), gammas)
def test_without_a_weighting_it_is_ttm(pair, gamma):
    torch.testing.assert_close(wttm_loss(*pair, gamma, "none"), ttm_loss(*pair, gamma))


@given(pairs(), st.floats(0.05, 0.95))
def test_the_shannon_weight_lies_between_none_and_the_power_sum(pair, gamma):
    """Entropies fall with their order: Shannon's (1) is at most Renyi's of order gamma < 1."""
    for student, teacher in zip(*(logits[:, None] for logits in pair), strict=True):
        none, shannon, power = (
            wttm_loss(student, teacher, gamma, w) for w in ("none", "shannon", "power_sum")
        )
        assert none - 1e-12 <= shannon <= power + 1e-12


@pytest.mark.parametrize("weighting", ["power_sum", "shannon"])
def test_a_one_hot_teacher_weighs_1_and_a_uniform_one_a_power_of_the_classes(weighting):
    student, one_hot = normal(0, 4, 5), 1e4 * torch.eye(5, dtype=torch.float64)[:4]
    weighed, plain = (wttm_loss(student, one_hot, 0.5, w) for w in (weighting, "none"))
    torch.testing.assert_close(weighed, plain)
    weighed, plain = (wttm_loss(student, torch.zeros_like(student), 0.5, w) for w in (weighting, "none"))
    torch.testing.assert_close(weighed, 5**0.5 * plain)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_is_finite_at_extreme_logits(weighting):
    student, teacher = (1e4 * normal(seed, 6, 10).sign().float() for seed in (0, 1))
    value, gradient = value_and_gradient(lambda s: wttm_loss(s, teacher, 0.3, weighting), student)
    exact = wttm_loss(student.double(), teacher.double(), 0.3, weighting)
    torch.testing.assert_close(value.double(), exact, rtol=1e-3, atol=1e-3)
    assert gradient.isfinite().all()


def test_refuses_a_weighting():
    for refused in (lambda: WTTM(0.5, "entropy"), lambda: wttm_loss(STUDENT, TEACHER, 0.5, "entropy")):
        with pytest.raises(ValueError, match="weighting must be power_sum, shannon or none, got 'entropy'"):
            refused()
