import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.metrics.entropy import predictive_kl, renyi_entropy, shannon_entropy, ttm_identity
from tests.objectives.cases import STUDENT, TEACHER, gammas, normal, pairs

seeds, orders = st.integers(0, 2**31), st.floats(0.05, 5.0)


def softmax(logits, gamma=1.0):
    powers = np.exp(gamma * (logits.numpy() - logits.numpy().max(axis=1, keepdims=True)))
    return powers / powers.sum(axis=1, keepdims=True)


@given(pairs(), orders)
def test_entropies_equal_their_formulas(sides, order):
    logits, _ = sides
    p = softmax(logits)
    np.testing.assert_allclose(shannon_entropy(logits), -(p * np.log(p)).sum(axis=1), atol=1e-10)
    if abs(order - 1) > 1e-3:
        formula = np.log((p**order).sum(axis=1)) / (1 - order)
        np.testing.assert_allclose(renyi_entropy(logits, order), formula, rtol=1e-9, atol=1e-9)


@given(pairs(), orders, orders)
def test_renyi_entropy_falls_with_its_order_and_is_at_most_log_c(sides, first, second):
    logits, _ = sides
    low, high = sorted((first, second))
    more, less = renyi_entropy(logits, low), renyi_entropy(logits, high)
    assert bool((more >= less - 1e-9).all())
    assert bool((less >= -1e-12).all())
    assert bool((more <= math.log(logits.shape[1]) + 1e-12).all())


@given(pairs())
def test_shannon_entropy_is_the_limit_at_order_1(sides):
    logits, _ = sides
    assert torch.equal(renyi_entropy(logits, 1.0), shannon_entropy(logits))
    torch.testing.assert_close(renyi_entropy(logits, 1 + 1e-7), shannon_entropy(logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", [0.25, 1.0, 2.0])
def test_entropies_of_uniform_and_certain_outputs(order):
    logits = torch.tensor([[3.0] * 5, [1e4, 0, 0, 0, -1e4]], dtype=torch.float64)
    assert renyi_entropy(logits, order).tolist() == pytest.approx([math.log(5), 0], abs=1e-12)


@given(pairs(), gammas)
def test_transformed_kl_is_the_sum_of_its_terms(sides, gamma):
    """KL(p_T, q) = T KL(p_T, q_T) - (T - 1) H_gamma(q) + (T - 1) H(p_T), each by its own formula in numpy."""
    subject, reference = sides
    t = 1 / gamma
    terms = ttm_identity(reference, subject, gamma)
    p_t, q, q_t = softmax(reference, gamma), softmax(subject), softmax(subject, gamma)

    def mean(rows):
        return rows.sum(axis=1).mean()

    assert terms["transformed_kl"] == pytest.approx(mean(p_t * np.log(p_t / q)), rel=1e-8, abs=1e-9)
    assert terms["distillation"] == pytest.approx(t * mean(p_t * np.log(p_t / q_t)), rel=1e-8, abs=1e-8)
    assert terms["teacher_entropy"] == pytest.approx(-(t - 1) * mean(p_t * np.log(p_t)), rel=1e-8, abs=1e-9)
    if t != 1:
        renyi = np.log((q**gamma).sum(axis=1)).mean() / (1 - gamma)
        assert terms["student_entropy"] == pytest.approx((t - 1) * renyi, rel=1e-8, abs=1e-8)
    assert abs(terms["residual"]) <= 1e-12 * max(1, t) * 100


def test_values_of_a_worked_example():
    """At gamma = 1 the identity is the KL divergence, and both entropy terms vanish."""
    assert predictive_kl(TEACHER, STUDENT) == pytest.approx(0.193638788135, abs=1e-9)
    terms = ttm_identity(TEACHER, STUDENT, 1.0)
    assert terms["transformed_kl"] == pytest.approx(0.193638788135, abs=1e-9)
    assert (terms["student_entropy"], terms["teacher_entropy"]) == pytest.approx((0, 0), abs=1e-12)


@given(seeds)
def test_a_constant_shift_of_each_row_changes_nothing(seed):
    reference, subject, shift = normal(seed, 6, 5), normal(seed + 1, 6, 5), normal(seed + 2, 6, 1, 50)
    assert predictive_kl(reference + shift, subject - shift) == pytest.approx(
        predictive_kl(reference, subject)
    )
    shifted, original = ttm_identity(reference + shift, subject, 0.3), ttm_identity(reference, subject, 0.3)
    assert shifted == pytest.approx(original, abs=1e-12)
