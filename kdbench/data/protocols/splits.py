"""Which training images an epoch shows, which are held out for selection, and what a protocol makes of the rest."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdbench.utils.seeding import derive, draw_integers, generator

_BITS = 53


def slot_samples(slot: Tensor, subset: Tensor) -> tuple[Tensor, Tensor]:
    """Image index and occurrence, int64 [B], of the slots [B] of an epoch over `subset` (int64 [n]).

    Slot j shows subset[j mod n] for the (j div n)-th time.
    """
    return subset[slot % len(subset)], slot // len(subset)


def validation_cut(labels: Tensor, classes: Sequence[str], size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices kept for training and indices held out (`size` of them), ascending, int64.

    Stratified, as `stratified_order` takes them; which images, and ties: by `seed`.
    """
    if size == 0:
        return torch.arange(len(labels)), torch.arange(0)
    if not len(classes) <= size < len(labels):
        raise ValueError(
            f"validation must be 0, or at least {len(classes)} (one image of each class) and fewer than the "
            f"{len(labels)} training images, got {size}"
        )
    chosen = stratified_order(labels, generator(seed, "validation"))
    held_out, kept = chosen[:size].sort().values, chosen[size:].sort().values
    left = torch.bincount(labels[kept], minlength=len(classes))
    if empty := [classes[label] for label in (left == 0).nonzero().flatten().tolist()]:
        raise ValueError(f"validation={size} leaves no training image of {', '.join(empty[:5])}")
    return kept, held_out


def stratified_order(labels: Tensor, draw: torch.Generator) -> Tensor:
    """All positions in an order of which every beginning is stratified: int64 [N].

    Adams apportionment: the next image always comes from the class of which the smallest part was taken so far,
    so every class gives one before any gives two. A longer beginning holds every shorter one.
    """
    shuffled, rank = _shuffled(labels, draw)
    taken = rank / torch.bincount(labels)[labels].double()
    return shuffled[taken[shuffled].argsort(stable=True)]


def long_tail(labels: Tensor, profile: Sequence[int], draw: torch.Generator) -> Tensor:
    """Positions of at most profile[c] images of each class c, drawn anew for each class: int64, ascending."""
    _, rank = _shuffled(labels, draw)
    return (rank < torch.tensor(profile)[labels]).nonzero().flatten()


def exponential_profile(largest: int, classes: int, imbalance: float) -> list[int]:
    """Images of each class: n_c = largest * imbalance^(-c / (C - 1)), rounded down, but 1 at least.

    As Cao et al. 2019 (LDAM) make CIFAR-LT, where the classes fall in the order of their labels.
    """
    if classes == 1:
        return [largest]
    return [max(1, int(largest * (1 / imbalance) ** (c / (classes - 1)))) for c in range(classes)]


def symmetric_noise(labels: Tensor, index: Tensor, among: Sequence[int], rate: float, seed: int) -> Tensor:
    """`labels` [N] with those at `index` replaced, each with probability `rate`, by another class of `among`.

    Every image at `index` must be of a class of `among`; the other class is uniform. An image's label is a function
    of (seed, its index) alone, so that it is the same in every subset that has the image.
    """
    change = draw_integers(derive(seed, "label noise"), index, below=2**_BITS).double() < rate * 2**_BITS
    changed = index[change]
    step = draw_integers(derive(seed, "label noise", "class"), changed, below=max(1, len(among) - 1))
    possible = torch.tensor(among)
    noisy = labels.clone()
    noisy[changed] = possible[(torch.searchsorted(possible, labels[changed]) + 1 + step) % len(among)]
    return noisy


def _shuffled(labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """All positions in a random order, and each position's rank in that order among its own class: int64 [N] both."""
    shuffled = torch.randperm(len(labels), generator=draw)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    return shuffled, rank
