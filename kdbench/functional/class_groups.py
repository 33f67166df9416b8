"""Groups of classes by how many training images they have: head, medium, tail."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def groups_by_frequency(counts: Tensor, groups: int, thresholds: Sequence[int] | None = None) -> Tensor:
    """Return the group of each class by frequency, int64 [C]; 0 is the most frequent group.

    Args:
        counts: Training images of each class [C].
        groups: Number of groups.
        thresholds: Descending counts; the group of a class is the number of thresholds that its count does not
            exceed. None divides the classes into equal groups by rank.
    """
    if thresholds is None:
        rank = counts.argsort(descending=True, stable=True).argsort()
        return rank * groups // len(counts)
    return (counts[:, None] <= torch.tensor(thresholds)).sum(dim=1)


def head_medium_tail(counts: Tensor) -> Tensor:
    """Return 0, 1 or 2 (head, medium, tail) for each class, int64 [C].

    The groups have more than 100 images, 20 to 100, and fewer than 20 (Liu et al. 2019, OLTR). If one of them is empty,
    as on CIFAR-10-LT and small data sets, they are thirds of the classes by rank.

    Args:
        counts: Training images of each class [C].
    """
    usual = groups_by_frequency(counts, 3, thresholds=(100, 19))
    return usual if len(set(usual.tolist())) == 3 else groups_by_frequency(counts, 3)
