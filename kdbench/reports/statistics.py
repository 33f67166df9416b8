"""The statistics of reports: means over seeds, z against a published value, and paired tests within seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation (n - 1); the latter is None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def z_score(values: Sequence[float], mean: float, std: float | None, trials: int | None) -> float | None:
    """Return (mean of `values` - `mean`) / sqrt(std^2 / trials + s^2 / n).

    Args:
        values: The n measured values; s is their sample standard deviation.
        mean: The published mean.
        std: The published standard deviation.
        trials: Number of trials behind the published mean.

    Returns:
        z; None where either side has no deviation (a single run, or a source without `std` or `trials`) and where
        both deviations are 0.
    """
    ours, deviation = mean_and_deviation(values)
    if deviation is None or std is None or trials is None or trials < 2:
        return None
    error = math.sqrt(std**2 / trials + deviation**2 / len(values))
    return (ours - mean) / error if error else None


@dataclass(frozen=True)
class Paired:
    """Statistics of the differences second - first within seeds.

    Attributes:
        n: Number of seeds that both sides have.
        mean: Mean difference.
        low: Lower end of the 95 % interval; None for a single pair and where all differences are equal.
        high: Upper end of the interval; None where `low` is.
        t: p value of the two-sided paired t test; None where `low` is.
        wilcoxon: p value of Wilcoxon's signed-rank test, two-sided; None for a single pair and where all
            differences are 0.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    t: float | None
    wilcoxon: float | None


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Compare two sets of scores on the seeds that both have; None where they share no seed.

    The interval and t are Student's with n - 1 degrees of freedom. Wilcoxon's p comes from scipy (exact for few pairs
    without ties and zeros) and cannot fall below 2 / 2^n.

    Args:
        first: Scores by seed.
        second: Scores by seed.
    """
    differences = [second[seed] - first[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return None
    n, (mean, deviation) = len(differences), mean_and_deviation(differences)
    # Accuracies have four decimals; differences that are equal up to rounding have no spread to test.
    if deviation is None or deviation < 1e-9:
        return Paired(n, mean, None, None, None, _wilcoxon(differences))
    from scipy import stats  # slow to import, and needed for paired tests alone

    result = stats.ttest_1samp(differences, 0.0)
    interval = result.confidence_interval(CONFIDENCE)
    low, high = float(interval.low), float(interval.high)
    return Paired(n, mean, low, high, float(result.pvalue), _wilcoxon(differences))


def _wilcoxon(differences: Sequence[float]) -> float | None:
    rounded = [round(difference, 6) for difference in differences]  # so that equal accuracies are ties
    if len(rounded) < 2 or not any(rounded):
        return None
    from scipy import stats

    return float(stats.wilcoxon(rounded).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Correct the p values of one family for multiple comparisons (Holm 1979); None values do not count."""
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[place] = largest
    return corrected


def mean_and_std(values: Sequence[float]) -> str:
    """Return `70.12 ± 0.34`: the mean, and the sample standard deviation where there are several values."""
    mean, std = mean_and_deviation(values)
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")
