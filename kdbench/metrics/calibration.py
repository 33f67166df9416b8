"""How far the top-1 probability is from the share of right answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdbench.metrics.classification import ECE_BINS

Bin = dict[str, Any]


def equal_width() -> Tensor:
    """The edges of 15 bins of one width, float64 [16] from 0 to 1 (Guo et al. 2017, arXiv:1706.04599)."""
    return torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64)


def equal_mass(confidence: Tensor) -> Tensor:
    """The edges of 15 bins with as many rows each as ties allow, float64 [16] from 0 to 1: the quantiles.

    confidence: float64 [N] (Nixon et al. 2019, arXiv:1904.01685). Rows of one confidence share a bin, whatever
    their order, so that some bins may be empty.
    """
    edges = confidence.quantile(equal_width())
    edges[0], edges[-1] = 0, 1
    return edges


def reliability(confidence: Tensor, right: Tensor, edges: Tensor) -> list[Bin]:
    """Of each bin [from, to): count, and in per cent the mean confidence and the accuracy (None where it is empty).

    confidence: float64 [N], below 1; right: 0 or 1 [N]; edges: float64 [bins + 1], rising from 0 to 1.
    """
    place = torch.bucketize(confidence, edges[1:-1], right=True)
    rows = []
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = place == number
        count = int(inside.sum())
        mean, share = confidence[inside].mean().item(), right[inside].double().mean().item()
        said = {"confidence": 100 * mean, "accuracy": 100 * share} if count else {}
        rows.append({"from": low, "to": high, "count": count, "confidence": None, "accuracy": None} | said)
    return rows


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error in per cent: |accuracy - confidence| of each bin, weighted by its rows."""
    full = [row for row in bins if row["count"]]
    gaps = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in full)
    return float(gaps / sum(row["count"] for row in full))
