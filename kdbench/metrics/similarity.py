"""Similarity of two networks' features (CKA) and of the class correlations of their logits."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ROWS = 4096


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = True) -> float:
    """Return the linear centred kernel alignment (CKA) of two features of the same rows.

    It is computed in float64 and in chunks of rows, with memory for D1 * D2 numbers instead of N * N.

    Args:
        x: Features [N, D1], N > 3.
        y: Features [N, D2].
        unbiased: Whether to estimate HSIC by the U-statistic of Song et al. 2012, as Nguyen et al. 2021
            (arXiv:2010.15327) do, whose values can be slightly negative. The biased estimate of Kornblith et
            al. 2019 (arXiv:1905.00414) is in [0, 1] and too high if there are few rows for the width.

    Returns:
        The similarity; NaN if one of the features is constant.

    Raises:
        ValueError: For fewer than 4 rows, or different numbers of rows.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"CKA: both features must have the same rows, at least 4; got {len(x)} and {len(y)}")
    hsic = _hsic_unbiased if unbiased else _hsic_biased
    x, y = _centre(x), _centre(y)
    scale = (hsic(x, x) * hsic(y, y)) ** 0.5
    return hsic(x, y) / scale if scale > 0 else float("nan")


def _centre(x: Tensor) -> Tensor:
    """Centre rows in float64 and scale them to mean length 1, which CKA ignores, against underflow."""
    x = x.double() - x.double().mean(dim=0)
    size = x.norm(dim=1).mean()
    return x / size if size > 0 else x


def _hsic_biased(x: Tensor, y: Tensor) -> float:
    """Return ||X' Y||^2 of centred features; the factor 1 / (N - 1)^2 cancels in CKA."""
    cross = sum(a.T @ b for a, b in _chunks(x, y))
    assert isinstance(cross, Tensor)
    return float(cross.square().sum())


def _hsic_unbiased(x: Tensor, y: Tensor) -> float:
    """Return N (N - 3) times HSIC_1 of Song et al. 2012, eq. 5, for K = X X' and L = Y Y' without diagonals."""
    count = len(x)
    total_x, total_y = x.sum(dim=0), y.sum(dim=0)
    diagonals = rows = 0.0
    for a, b in _chunks(x, y):
        k, l = a.square().sum(dim=1), b.square().sum(dim=1)  # noqa: E741 - the paper's letters
        diagonals += float(k @ l)
        rows += float((a @ total_x - k) @ (b @ total_y - l))
    trace = _hsic_biased(x, y) - diagonals
    sum_k = float(total_x.square().sum() - x.square().sum())
    sum_l = float(total_y.square().sum() - y.square().sum())
    return trace + sum_k * sum_l / ((count - 1) * (count - 2)) - 2 * rows / (count - 2)


def _chunks(x: Tensor, y: Tensor) -> zip[tuple[Tensor, Tensor]]:
    return zip(torch.split(x, CHUNK_ROWS), torch.split(y, CHUNK_ROWS), strict=True)


def correlation_difference(reference: Tensor, subject: Tensor) -> Tensor:
    """Return the difference between the class correlation matrices of two networks' logits.

    Pearson's coefficients over rows, as in the figure of Tian et al. 2020, arXiv:1910.10699; 0 for a class with
    constant logits.

    Args:
        reference: Logits [N, C].
        subject: Logits [N, C] of the same rows.

    Returns:
        Matrix of `reference` minus that of `subject`, [C, C].
    """
    return _correlation(reference) - _correlation(subject)


def _correlation(logits: Tensor) -> Tensor:
    centred = logits.double() - logits.double().mean(dim=0)
    length = centred.norm(dim=0)
    unit = centred / torch.where(length > 0, length, 1)
    return unit.T @ unit
