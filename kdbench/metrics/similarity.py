"""What two networks' features and logits have in common, whatever basis each uses."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_AT_ONCE = 4096


def linear_cka(x: Tensor, y: Tensor, unbiased: bool = True) -> float:
    """Linear centred kernel alignment of two features of the same rows: [N, D1], [N, D2], N > 3.

    unbiased: each HSIC by the U-statistic of Song et al. 2012 (as in Nguyen et al. 2021, arXiv:2010.15327), which
    may fall a little below 0; else as in Kornblith et al. 2019, arXiv:1905.00414, which lies in [0, 1] and is too
    high where rows are few for the width. NaN where one side is the same for all rows. Computed in float64 and in
    chunks of rows: D1 * D2 numbers are held, never N * N.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"CKA compares features of the same rows, at least 4; got {len(x)} and {len(y)}")
    hsic = _hsic_unbiased if unbiased else _hsic_biased
    x, y = _centred(x), _centred(y)
    scale = (hsic(x, x) * hsic(y, y)) ** 0.5
    return hsic(x, y) / scale if scale > 0 else float("nan")


def _centred(x: Tensor) -> Tensor:
    """In float64, and of mean length 1: CKA does not know the difference, and nothing underflows."""
    x = x.double() - x.double().mean(dim=0)
    size = x.norm(dim=1).mean()
    return x / size if size > 0 else x


def _hsic_biased(x: Tensor, y: Tensor) -> float:
    """||X' Y||^2 of centred features; the factor 1 / (N - 1)^2 cancels in CKA."""
    cross = sum(a.T @ b for a, b in _chunks(x, y))
    assert isinstance(cross, Tensor)
    return float(cross.square().sum())


def _hsic_unbiased(x: Tensor, y: Tensor) -> float:
    """HSIC_1 of Song et al. 2012, eq. 5, for K = X X' and L = Y Y' without their diagonals, by N (N - 3)."""
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
    return zip(torch.split(x, ROWS_AT_ONCE), torch.split(y, ROWS_AT_ONCE), strict=True)


def correlation_difference(reference: Tensor, subject: Tensor) -> Tensor:
    """The classes' correlation matrix of one side's logits less that of the other's: [N, C] twice -> [C, C].

    Pearson's coefficients over rows, as in the figure of Tian et al. 2020, arXiv:1910.10699. A class whose logit is
    the same in all rows correlates with none: 0.
    """
    return _correlation(reference) - _correlation(subject)


def _correlation(logits: Tensor) -> Tensor:
    centred = logits.double() - logits.double().mean(dim=0)
    length = centred.norm(dim=0)
    unit = centred / torch.where(length > 0, length, 1)
    return unit.T @ unit
