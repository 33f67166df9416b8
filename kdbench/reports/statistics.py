"""The statistics of reports: a cell beside a published value, and losses or teachers compared within seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation (n - 1); None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def z_score(values: Sequence[float], mean: float, std: float | None, trials: int | None) -> float | None:
    """(mean of `values` - `mean`) / sqrt(std^2 / trials + s^2 / n), s the sample standard deviation of the n values.

    None where either side has no deviation: a single run, or a source without `std` or `trials`; or where both are 0.
    """
    ours, deviation = mean_and_deviation(values)
    if deviation is None or std is None or trials is None or trials < 2:
        return None
    error = math.sqrt(std**2 / trials + deviation**2 / len(values))
    return (ours - mean) / error if error else None


@dataclass(frozen=True)
class Paired:
    """Differences second - first within seeds: n of them, their mean and its 95 % interval, p of two-sided tests.

    low, high and t are None for a single pair and where all differences are equal; wilcoxon where all are 0.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    t: float | None
    wilcoxon: float | None


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """What the seeds that both have say of the difference; None where they share none.

    The interval and t are Student's with n - 1 degrees of freedom; Wilcoxon's signed ranks are as scipy has them (exact
    for few pairs without ties and zeros), and cannot fall below 2 / 2^n.
    """
    differences = [second[seed] - first[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return None
    mean, deviation = mean_and_deviation(differences)
    # equal differences of accuracies with four decimals differ in the last bits: no spread is to be had from that
    if deviation is None or deviation < 1e-9:
        return Paired(len(differences), mean, None, None, None, _wilcoxon(differences))
    result = stats.ttest_1samp(differences, 0.0)
    interval = result.confidence_interval(CONFIDENCE)
    return Paired(
        len(differences),
        mean,
        float(interval.low),
        float(interval.high),
        float(result.pvalue),
        _wilcoxon(differences),
    )


def _wilcoxon(differences: Sequence[float]) -> float | None:
    rounded = [round(difference, 6) for difference in differences]  # else ties of accuracies are none
    if len(rounded) < 2 or not any(rounded):
        return None
    return float(stats.wilcoxon(rounded).pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p values of a family, each corrected for all (Holm 1979); those that are None have no part in it."""
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[place] = largest
    return corrected


def mean_and_std(values: Sequence[float]) -> str:
    """The mean, and the sample standard deviation where there are several."""
    std = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{std}"
