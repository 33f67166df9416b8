"""Selections of training images: epochs, validation parts, stratified subsets, long tails and label noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdbench.utils.seeding import derive, draw_integers, generator

_BITS = 53


def slot_samples(slot: Tensor, subset: Tensor) -> tuple[Tensor, Tensor]:
    """Return image index and occurrence of slots of an epoch; slot j shows subset[j mod n] for the (j div n)-th time.

    Args:
        slot: Slots, int64 [B].
        subset: Images of the epoch, int64 [n].

    Returns:
        Image and occurrence (from 0) of each slot, int64 [B] each.
    """
    return subset[slot % len(subset)], slot // len(subset)


def split_validation(labels: Tensor, classes: Sequence[str], size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split off a stratified validation part.

    Args:
        labels: Labels of the training set, int64 [N].
        classes: Names of all classes.
        size: Number of validation images; 0 for none.
        seed: Seed of the draw.

    Returns:
        Positions for training and for validation, ascending, int64 each.

    Raises:
        ValueError: If a class would have no image in one of the parts.
    """
    if size == 0:
        return torch.arange(len(labels)), torch.arange(0)
    if not len(classes) <= size < len(labels):
        raise ValueError(
            f"dataset.validation must be 0, or at least {len(classes)} (one image of each class) and fewer than the "
            f"{len(labels)} training images, got {size}"
        )
    order = stratified_order(labels, generator(seed, "validation"))
    validation, training = order[:size].sort().values, order[size:].sort().values
    counts = torch.bincount(labels[training], minlength=len(classes))
    if empty := [classes[label] for label in (counts == 0).nonzero().flatten().tolist()]:
        raise ValueError(f"dataset.validation={size} leaves no training image of {', '.join(empty[:5])}")
    return training, validation


def stratified_order(labels: Tensor, draw: torch.Generator) -> Tensor:
    """Return all positions in an order whose prefixes are all stratified: int64 [N].

    Adams apportionment: the next image comes from the class with the smallest fraction in the prefix, so every class
    contributes one image before any contributes two.

    Args:
        labels: int64 [N].
        draw: Generator that shuffles the images of each class.
    """
    shuffled, rank = _shuffle(labels, draw)
    fraction = rank / torch.bincount(labels)[labels].double()
    return shuffled[fraction[shuffled].argsort(stable=True)]


def long_tail(labels: Tensor, profile: Sequence[int], draw: torch.Generator) -> Tensor:
    """Draw at most profile[c] images of each class c; return their positions, int64, ascending."""
    _, rank = _shuffle(labels, draw)
    return (rank < torch.tensor(profile)[labels]).nonzero().flatten()


def exponential_profile(largest: int, classes: int, imbalance: float) -> list[int]:
    """Return the number of images of each class, n_c = largest * imbalance^(-c / (C - 1)), at least 1.

    This is CIFAR-LT of Cao et al. 2019 (LDAM), with classes in the order of their labels.

    Args:
        largest: Number of images of the first class.
        classes: Number of classes, C.
        imbalance: Ratio of the first class to the last.
    """
    if classes == 1:
        return [largest]
    return [max(1, int(largest * (1 / imbalance) ** (c / (classes - 1)))) for c in range(classes)]


def symmetric_noise(labels: Tensor, index: Tensor, among: Sequence[int], rate: float, seed: int) -> Tensor:
    """Replace labels, each with probability `rate`, by another class, drawn uniformly.

    The noise of an image is a function of (seed, its index) alone, so it is the same in every subset with the image.

    Args:
        labels: int64 [N].
        index: Images that get noise, int64; their classes must be in `among`.
        among: Possible labels, ascending.
        rate: Probability of a change.
        seed: Seed of the noise.

    Returns:
        Labels with noise, int64 [N].
    """
    is_changed = draw_integers(derive(seed, "label noise"), index, below=2**_BITS).double() < rate * 2**_BITS
    changed = index[is_changed]
    step = draw_integers(derive(seed, "label noise", "class"), changed, below=max(1, len(among) - 1))
    possible = torch.tensor(among)
    noisy = labels.clone()
    noisy[changed] = possible[(torch.searchsorted(possible, labels[changed]) + 1 + step) % len(among)]
    return noisy


def _shuffle(labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return all positions in random order, and the rank of each position within its class: int64 [N] each."""
    shuffled = torch.randperm(len(labels), generator=draw)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    return shuffled, rank
