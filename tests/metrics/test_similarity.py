import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.metrics import similarity
from kdbench.metrics.similarity import correlation_difference, linear_cka
from tests.objectives.cases import normal

seeds, rows = st.integers(0, 2**31), st.integers(4, 40)


def hsic_biased(x, y):
    n = len(x)
    centre = np.eye(n) - 1 / n
    return np.trace(x @ x.T @ centre @ y @ y.T @ centre)


def hsic_unbiased(x, y):
    """Song et al. 2012, eq. 5, with the Gram matrices written out."""
    n = len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))


@pytest.mark.parametrize("unbiased", [True, False])
@given(seeds, rows, st.integers(1, 6), st.integers(1, 6))
def test_cka_equals_the_formula_with_gram_matrices(unbiased, seed, count, left, right):
    x, y = normal(seed, count, left), normal(seed + 1, count, right) + 3
    hsic = hsic_unbiased if unbiased else hsic_biased
    scale = hsic(x.numpy(), x.numpy()) * hsic(y.numpy(), y.numpy())
    if scale > 1e-6:
        expected = hsic(x.numpy(), y.numpy()) / math.sqrt(scale)
        assert linear_cka(x, y, unbiased) == pytest.approx(expected, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("unbiased", [True, False])
@given(seeds)
def test_cka_ignores_shifts_scales_and_rotations(unbiased, seed):
    x, y = normal(seed, 30, 5), normal(seed + 1, 30, 4)
    rotation = torch.linalg.qr(normal(seed + 2, 5, 5)).Q
    transformed = 1e-3 * (x @ rotation) + normal(seed + 3, 1, 5, 10)
    assert linear_cka(transformed, y, unbiased) == pytest.approx(linear_cka(x, y, unbiased), abs=1e-8)
    assert linear_cka(x, transformed, unbiased) == pytest.approx(1)
    assert linear_cka(x, y, unbiased) == pytest.approx(linear_cka(y, x, unbiased))


@given(seeds)
def test_unbiased_cka_of_unrelated_wide_features_is_near_0(seed):
    x, y = normal(seed, 50, 200), normal(seed + 1, 50, 200)
    assert linear_cka(x, y, unbiased=False) > 0.6
    assert abs(linear_cka(x, y)) < 0.2


@given(seeds)
def test_biased_cka_is_between_0_and_1(seed):
    assert 0 <= linear_cka(normal(seed, 12, 3), normal(seed + 1, 12, 7), unbiased=False) <= 1


def test_cka_does_not_depend_on_chunks(monkeypatch):
    x, y = normal(0, 50, 6), normal(1, 50, 3)
    whole = [linear_cka(x, y, unbiased) for unbiased in (True, False)]
    monkeypatch.setattr(similarity, "CHUNK_ROWS", 7)
    assert [linear_cka(x, y, unbiased) for unbiased in (True, False)] == pytest.approx(whole, abs=1e-12)


def test_constant_features_are_nan_and_few_rows_are_refused():
    assert math.isnan(linear_cka(torch.ones(5, 2), normal(0, 5, 2)))
    with pytest.raises(ValueError, match="at least 4; got 3 and 3"):
        linear_cka(normal(0, 3, 2), normal(1, 3, 2))
    with pytest.raises(ValueError, match="same rows"):
        linear_cka(normal(0, 5, 2), normal(1, 6, 2))


@given(seeds, st.integers(2, 6))
def test_correlations_equal_numpys(seed, classes):
    x, y = normal(seed, 30, classes), normal(seed + 1, 30, classes)
    expected = np.corrcoef(x.numpy(), rowvar=False) - np.corrcoef(y.numpy(), rowvar=False)
    np.testing.assert_allclose(correlation_difference(x, y), expected, atol=1e-10)


@given(seeds)
def test_correlations_ignore_increasing_linear_maps(seed):
    x = normal(seed, 30, 4)
    other = x * normal(seed + 1, 1, 4).abs() + normal(seed + 2, 1, 4)
    assert correlation_difference(x, other).abs().max() < 1e-9


def test_constant_class_has_correlation_0():
    x = normal(0, 30, 3)
    constant = x.clone()
    constant[:, 1] = 5
    difference = correlation_difference(x, constant)
    assert difference.isfinite().all()
    assert difference[0, 1] == pytest.approx(np.corrcoef(x.numpy(), rowvar=False)[0, 1])
