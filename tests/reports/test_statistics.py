"""Statistics of reports, checked by hand and against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdbench.reports.statistics import holm, mean_and_deviation, paired, z_score


def test_mean_and_sample_deviation():
    assert mean_and_deviation([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)))
    assert mean_and_deviation([1.5]) == (1.5, None)


def test_z_score():
    """Ours 70.5 with s^2 = 0.5 over 2, theirs 70 with s = 0.3 over 3: 0.5 / sqrt(0.03 + 0.25)."""
    assert z_score([70.0, 71.0], 70.0, 0.3, 3) == pytest.approx(0.5 / math.sqrt(0.28))


@pytest.mark.parametrize(
    ("values", "std", "trials"), [([70.0], 0.3, 3), ([70.0, 71.0], None, 3), ([70.0, 71.0], 0.3, None)]
)
def test_no_z_without_a_deviation_on_both_sides(values, std, trials):
    assert z_score(values, 70.0, std, trials) is None


def test_no_z_for_one_trial_or_without_any_spread():
    assert z_score([70.0, 71.0], 70.0, 0.0, 1) is None
    assert z_score([70.0, 70.0], 69.0, 0.0, 5) is None


def test_paired_differences():
    """Differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3) with two degrees of freedom; t(0.975, 2) = 4.302653."""
    result = paired({0: 10.0, 1: 20.0, 2: 30.0}, {0: 11.0, 1: 22.0, 2: 33.0, 3: 99.0})
    assert (result.n, result.mean) == (3, 2.0)
    assert result.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert result.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert result.t == pytest.approx(0.0741799, abs=1e-6)
    assert result.wilcoxon == 0.25


@settings(max_examples=20)  # the exact test is slow
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=3, max_size=8))
def test_paired_tests_agree_with_scipy_on_two_samples(values):
    first, second = ({seed: round(pair[side], 2) for seed, pair in enumerate(values)} for side in (0, 1))
    differences = np.array([second[seed] - first[seed] for seed in first])
    result = paired(first, second)
    assert result.mean == pytest.approx(differences.mean(), abs=1e-9)
    if differences.std() > 1e-6:
        expected = stats.ttest_rel(list(second.values()), list(first.values()))
        assert result.t == pytest.approx(expected.pvalue, abs=1e-9)
        half = stats.t.ppf(0.975, len(values) - 1) * differences.std(ddof=1) / math.sqrt(len(values))
        assert (result.low, result.high) == pytest.approx((result.mean - half, result.mean + half), abs=1e-6)


def test_equal_differences_have_no_p_value():
    result = paired({0: 10.1, 1: 20.2}, {0: 10.4, 1: 20.5})
    assert (result.mean, result.low, result.t) == (pytest.approx(0.3), None, None)
    same = paired({0: 10.0, 1: 20.0}, {0: 10.0, 1: 20.0})
    assert (same.mean, same.t, same.wilcoxon) == (0.0, None, None)


def test_seeds_of_one_side_only_are_ignored():
    assert paired({0: 1.0}, {1: 2.0}) is None
    assert paired({0: 1.0}, {0: 3.0, 1: 2.0}).n == 1


def test_wilcoxon_treats_differences_equal_up_to_rounding_as_ties():
    """The absolute differences 0.3, 0.3 and 0.5 are inexact in binary; the first two must be ties."""
    result = paired({0: 70.0, 1: 70.1, 2: 70.0}, {0: 70.3, 1: 70.4, 2: 70.5})
    assert result.wilcoxon == stats.wilcoxon([0.3, 0.3, 0.5]).pvalue


def test_holm_correction():
    """Sorted 0.01, 0.02, 0.04 of three: 0.03, 0.04, then not below the one before: 0.04."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(values):
    """By definition, hypotheses are rejected in order as long as p(k) <= level / (m - k)."""
    level, corrected = 0.05, holm(values)
    order = sorted(range(len(values)), key=values.__getitem__)
    rejected = set()
    for rank, place in enumerate(order):
        if values[place] * (len(values) - rank) > level:
            break
        rejected.add(place)
    assert {place for place, value in enumerate(corrected) if value <= level} == rejected
