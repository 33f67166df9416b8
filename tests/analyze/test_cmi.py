import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from objectives.cases import TARGET, TEACHER, normal

from kdbench.analyze.cmi import class_centroids, conditional_mutual_information

seeds = st.integers(0, 2**31)


def brute_force(logits, target, classes):
    """Both in float64 numpy, row by row."""
    powers = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
    p = powers / powers.sum(axis=1, keepdims=True)
    centroids = np.full((classes, classes), 1 / classes)
    for label in range(classes):
        rows = [row for row, of in zip(p, target.tolist(), strict=True) if of == label]
        if rows:
            centroids[label] = np.mean(rows, axis=0)
    values = [(row * np.log(row / centroids[of])).sum() for row, of in zip(p, target.tolist(), strict=True)]
    return centroids, np.mean(values)


def test_the_worked_value():
    """X38: the centroids of two classes are given."""
    centroids = torch.tensor([[0.7, 0.2, 0.1], [1, 0, 0], [0.1, 0.2, 0.7]], dtype=torch.float64)
    value = conditional_mutual_information(TEACHER, TARGET, centroids)
    assert value.item() == pytest.approx(0.064654734212, abs=1e-9)


@given(seeds, st.integers(2, 9), st.integers(1, 40))
def test_as_computed_row_by_row(seed, classes, rows):
    logits, target = normal(seed, rows, classes), torch.arange(rows) * 3 % classes
    centroids, cmi = brute_force(logits, target, classes)
    ours = class_centroids(logits, target, classes)
    torch.testing.assert_close(ours, torch.from_numpy(centroids), rtol=1e-12, atol=1e-12)
    assert conditional_mutual_information(logits, target, ours).item() == pytest.approx(cmi, abs=1e-10)


@given(seeds, st.integers(2, 9))
def test_never_negative_and_zero_where_a_class_has_one_output(seed, classes):
    target = torch.arange(30) % classes
    logits = normal(seed, 30, classes)
    assert conditional_mutual_information(logits, target, class_centroids(logits, target, classes)) >= 0
    same = normal(seed, classes, classes)[target] + normal(seed + 1, 30, 1)  # a constant per row says nothing
    value = conditional_mutual_information(same, target, class_centroids(same, target, classes))
    assert value.item() == pytest.approx(0, abs=1e-12)


@given(seeds)
def test_stale_centroids_add_the_distance_of_the_means(seed):
    """E KL(P, Q) = CMI + E KL(mean P of the class, Q): methods.md A.4."""
    logits, target = normal(seed, 40, 5), torch.arange(40) % 5
    fresh, stale = class_centroids(logits, target, 5), normal(seed + 1, 5, 5).softmax(dim=1)
    moved = (fresh * (fresh / stale).log()).sum(dim=1).mean()
    total = conditional_mutual_information(logits, target, stale)
    own = conditional_mutual_information(logits, target, fresh)
    torch.testing.assert_close(total, own + moved)


def test_finite_where_outputs_underflow():
    logits = torch.tensor([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]])
    for dtype in (torch.float32, torch.float64):
        target = torch.tensor([0, 0, 1])
        centroids = class_centroids(logits.to(dtype), target, 3)
        assert centroids.dtype == dtype
        assert conditional_mutual_information(logits.to(dtype), target, centroids) == 0


def test_a_class_without_rows_is_uniform():
    centroids = class_centroids(torch.zeros(2, 4), torch.tensor([1, 1]), 4)
    assert torch.equal(centroids, torch.full((4, 4), 0.25))
    assert class_centroids(normal(0, 2, 4), torch.tensor([1, 1]), 4)[0].tolist() == [0.25] * 4
