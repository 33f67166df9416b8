"""Calibration of the top-1 probability: reliability diagrams and expected calibration error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdbench.metrics.classification import ECE_BINS

Bin = dict[str, Any]


def equal_width() -> Tensor:
    """Return the edges of 15 bins of equal width, float64 [16] from 0 to 1 (Guo et al. 2017, arXiv:1706.04599)."""
    return torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64)


def equal_mass(confidence: Tensor) -> Tensor:
    """Return the edges of 15 bins with equally many rows: the quantiles (Nixon et al. 2019, arXiv:1904.01685).

    Rows of equal confidence share a bin, so some bins may be empty.

    Args:
        confidence: Top-1 probabilities, float64 [N].

    Returns:
        float64 [16], from 0 to 1.
    """
    edges = confidence.quantile(equal_width())
    edges[0], edges[-1] = 0, 1
    return edges


def reliability(confidence: Tensor, right: Tensor, edges: Tensor) -> list[Bin]:
    """Compute the reliability diagram.

    Args:
        confidence: Top-1 probabilities below 1, float64 [N].
        right: Whether the top-1 class is correct, 0 or 1, [N].
        edges: Edges of the bins, float64 [bins + 1], ascending from 0 to 1.

    Returns:
        For each bin [from, to): `count`, and in per cent the mean `confidence` and the `accuracy` (None if empty).
    """
    bin_of = torch.bucketize(confidence, edges[1:-1], right=True)
    rows = []
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = bin_of == number
        count = int(inside.sum())
        mean, share = confidence[inside].mean().item(), right[inside].double().mean().item()
        means = {"confidence": 100 * mean, "accuracy": 100 * share} if count else {}
        rows.append({"from": low, "to": high, "count": count, "confidence": None, "accuracy": None} | means)
    return rows


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error in per cent: |accuracy - confidence| of each bin, weighted by count."""
    full = [row for row in bins if row["count"]]
    gaps = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in full)
    return float(gaps / sum(row["count"] for row in full))
