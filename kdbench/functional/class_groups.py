"""Groups of classes by how many training images they have: head, medium, tail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def groups_by_frequency(counts: Tensor, groups: int, thresholds: Sequence[int] | None = None) -> Tensor:
    """The group of each class, 0 for the most frequent: int64 [C].

    counts: training images of each class [C]. Equal shares of the classes by rank (ties in their order) where
    there are no thresholds; else a class has passed every threshold that its count is not above.
    """
    if thresholds is None:
        rank = counts.argsort(descending=True, stable=True).argsort()
        return rank * groups // len(counts)
    return (counts[:, None] <= torch.tensor(thresholds)).sum(dim=1)


def head_medium_tail(counts: Tensor) -> Tensor:
    """0, 1 or 2 (head, medium, tail) for each class by its number of training images [C]: int64 [C].

    More than 100 images, 20 to 100, fewer than 20 (Liu et al. 2019, OLTR); thirds of the classes by rank where that
    leaves a group empty, as it does on CIFAR-10-LT and on every small data set.
    """
    usual = groups_by_frequency(counts, 3, thresholds=(100, 19))
    return usual if len(set(usual.tolist())) == 3 else groups_by_frequency(counts, 3)
