"""Protocols change what a student sees of a training set: few images, omitted classes, a long tail, wrong labels.

docs/protocols.md describes them and their sources. The validation part is split off before, from the full data, and
the test set never changes.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor

from kdbench.data.protocols.splits import (
    exponential_profile,
    long_tail,
    slot_samples,
    stratified_order,
    symmetric_noise,
)
from kdbench.functional.class_groups import head_medium_tail
from kdbench.utils.seeding import generator
from kdbench.utils.validation import check_at_least, check_choice, check_fraction


@dataclass(frozen=True)
class Subset:
    """A fraction of the training images (few-shot).

    Attributes:
        fraction: Fraction of the images, in (0, 1].
        mode: `stratified` draws the same fraction of every class by `seed`; `first` takes the first images in the
            order of the files.
        repeat: Whether an epoch keeps the length that it has without the subset, and shows images repeatedly.
        seed: Seed of the stratified draw.

    Raises:
        ValueError: For invalid options.
    """

    fraction: float = 1.0
    mode: Literal["stratified", "first"] = "stratified"
    repeat: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fraction("dataset.subset", closed="right", fraction=self.fraction)
        check_choice("dataset.subset", ("stratified", "first"), mode=self.mode)

    def select(self, labels: Tensor) -> Tensor:
        """Return the positions of the subset, ascending: labels int64 [N] -> int64 [n].

        Raises:
            ValueError: If the subset would be empty, or a stratified one would miss a class.
        """
        size, classes = round(self.fraction * len(labels)), len(set(labels.tolist()))
        minimum = classes if self.mode == "stratified" else 1
        if size < minimum:
            reason = " (one of each class)" if self.mode == "stratified" else ""
            raise ValueError(
                f"dataset.subset.fraction={self.fraction:g} of {len(labels)} images are {size}, but {self.mode} needs "
                f"at least {minimum}{reason}: use a fraction of {minimum / len(labels):g} or more"
            )
        if self.mode == "first" or size == len(labels):
            return torch.arange(size)
        return stratified_order(labels, generator(self.seed, "subset"))[:size].sort().values


class ProtocolOptions(TypedDict, total=False):
    """Keyword arguments of `Protocol`, which every image data set accepts."""

    subset: Subset
    omit_classes: Sequence[int | str]
    omit: Literal["dataset", "loop"]
    imbalance: float
    imbalance_seed: int
    label_noise: float
    label_noise_seed: int


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A training set under a protocol.

    Attributes:
        index: Image of each slot of an epoch, int64 [slots].
        occurrence: How often the epoch has the image in earlier slots, int64 [slots].
        is_shown: Whether the slot's row stays in its batch, bool [slots].
        subset: Distinct images that are shown, ascending, int64 [n].
        labels: Labels of the full training set, with noise, int64 [N].
        groups: Labels of the classes in each group whose mean recall is reported, by its name.
    """

    index: Tensor
    occurrence: Tensor
    is_shown: Tensor
    subset: Tensor
    labels: Tensor
    groups: dict[str, list[int]]


@dataclass(frozen=True)
class Protocol:
    """Changes of a training set, without its validation part: imbalance, then subset, omitted classes and noise.

    Attributes:
        subset: Fraction of the images that imbalance left.
        omit_classes: Labels or names of classes without training images.
        omit: `dataset` removes their images from the data, `loop` from each batch, which is then smaller.
        imbalance: Ratio of the largest to the smallest class in an exponential profile; 1 changes nothing.
        imbalance_seed: Seed of the images that imbalance leaves.
        label_noise: Probability that a training label is replaced by another class that is not omitted.
        label_noise_seed: Seed of the noise.

    Raises:
        ValueError: For invalid options.
    """

    subset: Subset = Subset()
    omit_classes: Sequence[int | str] = ()
    omit: Literal["dataset", "loop"] = "dataset"
    imbalance: float = 1.0
    imbalance_seed: int = 0
    label_noise: float = 0.0
    label_noise_seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("dataset", 1, imbalance=self.imbalance)
        check_fraction("dataset", label_noise=self.label_noise)
        check_choice("dataset", ("dataset", "loop"), omit=self.omit)

    def omitted_labels(self, classes: Sequence[str]) -> list[int]:
        """Return the labels of the omitted classes, ascending.

        Args:
            classes: Names of all classes.

        Raises:
            ValueError: If a class does not exist or is named twice, or too few classes remain.
        """
        labels = sorted(_label_of(name, classes) for name in self.omit_classes)
        option = f"dataset.omit_classes=[{','.join(map(str, self.omit_classes))}]"
        if len(set(labels)) < len(labels):
            raise ValueError(f"{option}: name each class only once")
        remaining = len(classes) - len(labels)
        if labels and remaining < 1 + (self.label_noise > 0):
            raise ValueError(f"{option} leaves {remaining} of {len(classes)} classes, too few for training")
        return labels

    def apply(self, labels: Tensor, classes: Sequence[str], available: Tensor) -> TrainingSet:
        """Apply the protocol.

        Args:
            labels: Labels of the full training set, int64 [N].
            classes: Names of all classes.
            available: Positions of the images outside the validation part, ascending, int64.

        Raises:
            ValueError: If no image would be left.
        """
        omitted = self.omitted_labels(classes)
        if self.imbalance > 1:
            largest = int(torch.bincount(labels[available]).max())
            profile = exponential_profile(largest, len(classes), self.imbalance)
            draw = generator(self.imbalance_seed, "imbalance")
            available = available[long_tail(labels[available], profile, draw)]
        selected = available[self.subset.select(labels[available])]
        slots = torch.arange(len(available) if self.subset.repeat else len(selected))
        index, occurrence = slot_samples(slots, selected)
        is_seen = torch.ones(len(classes), dtype=torch.bool)
        is_seen[omitted] = False
        is_shown, subset = is_seen[labels[index]], selected[is_seen[labels[selected]]]
        if not len(subset):
            raise ValueError(f"{self.title(classes)}: no training image is left")
        if self.omit == "dataset":
            index, occurrence, is_shown = index[is_shown], occurrence[is_shown], is_shown[is_shown]
        seen = is_seen.nonzero().flatten()
        noisy = symmetric_noise(labels, subset, seen.tolist(), self.label_noise, self.label_noise_seed)
        groups = self._groups(omitted, seen, torch.bincount(labels[subset], minlength=len(classes)))
        return TrainingSet(index, occurrence, is_shown, subset, noisy, groups)

    def _groups(self, omitted: list[int], seen: Tensor, counts: Tensor) -> dict[str, list[int]]:
        groups = {"omitted": omitted, "kept": seen.tolist()} if omitted else {}
        if self.imbalance > 1:
            group_of = head_medium_tail(counts[seen])
            groups |= {
                name: seen[group_of == number].tolist()
                for number, name in enumerate(("head", "medium", "tail"))
            }
        return {name: members for name, members in groups.items() if members}

    def title(self, classes: Sequence[str], authors_order: bool = False) -> str:
        """Return a short description of the protocol; empty if it changes nothing.

        Args:
            classes: Names of all classes.
            authors_order: Whether the images are in the order of the files that the data set's authors distribute.
        """
        parts = []
        if self.imbalance > 1:
            parts.append(f"imbalance {self.imbalance:g} (seed {self.imbalance_seed})")
        if self.subset.fraction < 1:
            share = f"{100 * self.subset.fraction:g} %"
            first = f"{'first' if authors_order and self.imbalance == 1 else 'first-of-this-order'} {share}"
            stratified = f"stratified {share} (seed {self.subset.seed})"
            suffix = ", repeated" if self.subset.repeat else ""
            parts.append((first if self.subset.mode == "first" else stratified) + suffix)
        if omitted := self.omitted_labels(classes):
            parts.append(f"without classes {', '.join(map(str, omitted))} ({self.omit})")
        if self.label_noise > 0:
            parts.append(f"label noise {100 * self.label_noise:g} % (seed {self.label_noise_seed})")
        return "; ".join(parts)


def _label_of(name: int | str, classes: Sequence[str]) -> int:
    if isinstance(name, int) and 0 <= name < len(classes):
        return name
    if isinstance(name, str) and name in classes:
        return list(classes).index(name)
    close = difflib.get_close_matches(str(name), classes, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise ValueError(
        f"dataset.omit_classes: there is no class {name}{hint} "
        f"Possible: 0 to {len(classes) - 1}, or a name ({', '.join(classes[:3])}, ...)"
    )
