"""Which training images an epoch shows, and which are held out for selection."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdbench.seeding import generator


def slot_samples(slot: Tensor, subset: Tensor) -> tuple[Tensor, Tensor]:
    """Image index and occurrence, int64 [B], of the slots [B] of an epoch over `subset` (int64 [n]).

    Slot j shows subset[j mod n] for the (j div n)-th time.
    """
    return subset[slot % len(subset)], slot // len(subset)


def validation_cut(labels: Tensor, classes: Sequence[str], size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices kept for training and indices held out (`size` of them), ascending, int64.

    Stratified: every class gives its share (Adams apportionment: the next image always comes from the class
    of which the smallest part was taken so far, so every class gives one). Which images, and ties: by `seed`.
    """
    if size == 0:
        return torch.arange(len(labels)), torch.arange(0)
    if not len(classes) <= size < len(labels):
        raise ValueError(
            f"validation must be 0, or at least {len(classes)} (one image of each class) and fewer than the "
            f"{len(labels)} training images, got {size}"
        )
    shuffled = torch.randperm(len(labels), generator=generator(seed, "validation"))
    counts = torch.bincount(labels, minlength=len(classes))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    taken = torch.empty(len(labels), dtype=torch.float64)
    taken[by_class] = rank / counts[labels[by_class]].double()
    chosen = shuffled[taken[shuffled].argsort(stable=True)]
    held_out, kept = chosen[:size].sort().values, chosen[size:].sort().values
    left = torch.bincount(labels[kept], minlength=len(classes))
    if empty := [classes[label] for label in (left == 0).nonzero().flatten().tolist()]:
        raise ValueError(f"validation={size} leaves no training image of {', '.join(empty[:5])}")
    return kept, held_out
