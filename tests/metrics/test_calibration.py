import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from kdbench.metrics.calibration import calibration_error, equal_mass, equal_width, reliability

rows = st.integers(20, 400)
seeds = st.integers(0, 2**31)


def sample(seed, count):
    draw = torch.Generator().manual_seed(seed)
    confidence = torch.rand(count, generator=draw, dtype=torch.float64)
    return confidence, (torch.rand(count, generator=draw) < confidence**2).long()


@given(seeds, rows)
def test_equal_width_error_equals_torchmetrics(seed, count):
    sure, right = sample(seed, count)
    error = calibration_error(reliability(sure, right, equal_width()))
    assert error == pytest.approx(100 * binary_calibration_error(sure, right, 15).item(), abs=1e-9)


@given(seeds, rows)
def test_equal_width_error_equals_a_loop_over_rows(seed, count):
    sure, right = sample(seed, count)
    total = 0.0
    for low in np.arange(15) / 15:
        inside = [
            (s, r) for s, r in zip(sure.tolist(), right.tolist(), strict=True) if low <= s < low + 1 / 15
        ]
        if inside:
            total += abs(sum(r - s for s, r in inside))
    error = calibration_error(reliability(sure, right, equal_width()))
    assert error == pytest.approx(100 * total / count, abs=1e-9)


@given(seeds, rows)
def test_equal_mass_bins_equal_sklearns_quantiles(seed, count):
    sure, right = sample(seed, count)
    bins = reliability(sure, right, equal_mass(sure))
    counts = [row["count"] for row in bins]
    assert sum(counts) == count
    assert max(counts) - min(counts) <= 2
    if math.gcd(count - 1, 15) == 1:  # otherwise a quantile is a row, which sklearn puts into the lower bin
        accuracy, confidence = calibration_curve(right, sure, n_bins=15, strategy="quantile")
        np.testing.assert_allclose([row["accuracy"] for row in bins], 100 * accuracy)
        np.testing.assert_allclose([row["confidence"] for row in bins], 100 * confidence)


@given(seeds)
def test_ties_share_a_bin_in_any_order(seed):
    draw = torch.Generator().manual_seed(seed)
    sure = torch.tensor([0.2, 0.5, 0.9, 1 - 2**-53])[torch.randint(4, (60,), generator=draw)].double()
    right = torch.randint(2, (60,), generator=draw)
    order = torch.randperm(60, generator=draw)
    for edges in (equal_width(), equal_mass(sure)):
        in_order, shuffled = reliability(sure, right, edges), reliability(sure[order], right[order], edges)
        assert [row["count"] for row in in_order] == [row["count"] for row in shuffled]
        assert calibration_error(in_order) == pytest.approx(calibration_error(shuffled), abs=1e-12)


@given(seeds, rows)
def test_error_is_between_the_gap_of_the_means_and_100(seed, count):
    sure, right = sample(seed, count)
    gap = 100 * abs(sure.mean().item() - right.double().mean().item())
    for edges in (equal_width(), equal_mass(sure)):
        assert gap - 1e-9 <= calibration_error(reliability(sure, right, edges)) <= 100


def test_certain_row_is_in_the_last_bin():
    (*empty, last) = reliability(torch.tensor([1 - 2**-53]).double(), torch.tensor([1]), equal_width())
    assert last["count"] == 1
    assert last["accuracy"] == 100
    assert all(row["count"] == 0 and row["accuracy"] is None for row in empty)


def test_edge_belongs_to_the_bin_that_starts_there():
    edges = equal_width()
    bins = reliability(edges[[3]], torch.tensor([1]), edges)
    assert [row["from"] for row in bins if row["count"]] == [edges[3].item()]


def test_bins_cover_all_confidences():
    for edges in (equal_width(), equal_mass(sample(0, 50)[0])):
        bins = reliability(*sample(1, 50), edges)
        assert (bins[0]["from"], bins[-1]["to"]) == (0, 1)
        assert all(one["to"] == other["from"] for one, other in itertools.pairwise(bins))
