"""What a student sees of a training set: few images, no image of some classes, a long tail, wrong labels.

docs/protocols.md says where each comes from and what it does. The validation part is cut before, from the full data,
and the test set is never touched.
"""

import difflib
import math
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


def _check_choice(key: str, given: str, possible: Sequence[str]) -> None:
    if given not in possible:
        raise ValueError(f"{key}={given}; possible: {', '.join(possible)}")


@dataclass(frozen=True)
class Subset:
    """Few-shot: a fraction of the training images.

    mode: `stratified`, the same part of every class, drawn by `seed`; or `first`, the first ones in the order of the
    files. repeat: an epoch is as long as without the subset, and shows its images again and again.
    """

    fraction: float = 1.0
    mode: Literal["stratified", "first"] = "stratified"
    repeat: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"dataset.subset.fraction must lie in (0, 1], got {self.fraction}")
        _check_choice("dataset.subset.mode", self.mode, ("stratified", "first"))

    def of(self, labels: Tensor) -> Tensor:
        """Positions of the images that are left, ascending: labels int64 [N] -> int64 [n]."""
        size, classes = round(self.fraction * len(labels)), len(set(labels.tolist()))
        least = classes if self.mode == "stratified" else 1
        if size < least:
            of_each = " (one of each class)" if self.mode == "stratified" else ""
            raise ValueError(
                f"dataset.subset.fraction={self.fraction:g} of {len(labels)} images are {size}, but {self.mode} needs "
                f"at least {least}{of_each}: a fraction of {least / len(labels):g} or more"
            )
        if self.mode == "first" or size == len(labels):
            return torch.arange(size)
        return stratified_order(labels, generator(self.seed, "subset"))[:size].sort().values


class ProtocolOptions(TypedDict, total=False):
    """The keyword arguments of `Protocol`, which every data set takes."""

    subset: Subset
    omit_classes: Sequence[int | str]
    omit: Literal["dataset", "loop"]
    imbalance: float
    imbalance_seed: int
    label_noise: float
    label_noise_seed: int


@dataclass(frozen=True, slots=True)
class Training:
    """A training set as a protocol leaves it.

    index, occurrence: int64 [slots], the image of each slot of an epoch, and how often the epoch has it before.
    shown: bool [slots], False where the slot's row is taken out of its batch.
    trained: int64, ascending, the different images that are shown.
    labels: int64 [N], of the full training set, as the student is told them.
    groups: classes (by label) whose mean recall is reported, by the group's name.
    """

    index: Tensor
    occurrence: Tensor
    shown: Tensor
    trained: Tensor
    labels: Tensor
    groups: dict[str, list[int]]


@dataclass(frozen=True)
class Protocol:
    """The options in the order in which they act on what the validation cut left.

    imbalance: the largest class over the smallest, in an exponential profile; 1 for the data as they are.
    subset: of what is left then.
    omit_classes: labels or names of classes that the student sees no image of; omit: `dataset` takes them out of the
    data, `loop` out of each batch, which has fewer rows then.
    label_noise: the probability with which a training label is replaced by that of another class that is not omitted.
    """

    subset: Subset = Subset()
    omit_classes: Sequence[int | str] = ()
    omit: Literal["dataset", "loop"] = "dataset"
    imbalance: float = 1.0
    imbalance_seed: int = 0
    label_noise: float = 0.0
    label_noise_seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(
                f"dataset.imbalance is the largest class over the smallest, 1 or more, got {self.imbalance}"
            )
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"dataset.label_noise is a probability in [0, 1], got {self.label_noise}")
        _check_choice("dataset.omit", self.omit, ("dataset", "loop"))

    def omitted(self, classes: Sequence[str]) -> list[int]:
        """The omitted labels, ascending. ValueError where `classes` has no such class, or no other one."""
        labels = sorted(_label_of(one, classes) for one in self.omit_classes)
        given = f"dataset.omit_classes=[{','.join(map(str, self.omit_classes))}]"
        if len(set(labels)) < len(labels):
            raise ValueError(f"{given}: give each class once")
        left = len(classes) - len(labels)
        if labels and left < 1 + (self.label_noise > 0):
            raise ValueError(f"{given} leaves {left} of {len(classes)} classes, which are too few")
        return labels

    def apply(self, labels: Tensor, classes: Sequence[str], kept: Tensor) -> Training:
        """What is left of the images `kept` (positions, ascending) of a training set with `labels` [N]."""
        omitted = self.omitted(classes)
        if self.imbalance > 1:
            largest = int(torch.bincount(labels[kept]).max())
            profile = exponential_profile(largest, len(classes), self.imbalance)
            kept = kept[long_tail(labels[kept], profile, generator(self.imbalance_seed, "imbalance"))]
        few = kept[self.subset.of(labels[kept])]
        slots = torch.arange(len(kept) if self.subset.repeat else len(few))
        index, occurrence = slot_samples(slots, few)
        is_seen = torch.ones(len(classes), dtype=torch.bool)
        is_seen[omitted] = False
        shown, trained = is_seen[labels[index]], few[is_seen[labels[few]]]
        if not len(trained):
            raise ValueError(f"{self.title(classes)}: no training image is left")
        if self.omit == "dataset":
            index, occurrence, shown = index[shown], occurrence[shown], shown[shown]
        seen = is_seen.nonzero().flatten()
        told = symmetric_noise(labels, trained, seen.tolist(), self.label_noise, self.label_noise_seed)
        groups = self._groups(omitted, seen, torch.bincount(labels[trained], minlength=len(classes)))
        return Training(index, occurrence, shown, trained, told, groups)

    def _groups(self, omitted: list[int], seen: Tensor, counts: Tensor) -> dict[str, list[int]]:
        groups = {"omitted": omitted, "kept": seen.tolist()} if omitted else {}
        if self.imbalance > 1:
            of = head_medium_tail(counts[seen])
            groups |= {
                name: seen[of == number].tolist() for number, name in enumerate(("head", "medium", "tail"))
            }
        return {name: members for name, members in groups.items() if members}

    def title(self, classes: Sequence[str], authors_order: bool = False) -> str:
        """The protocol in a few words, empty for the data as they are.

        authors_order: whether the files have the order of those that the data set's authors distribute.
        """
        parts = []
        if self.imbalance > 1:
            parts.append(f"imbalance {self.imbalance:g} (seed {self.imbalance_seed})")
        if self.subset.fraction < 1:
            share = f"{100 * self.subset.fraction:g} %"
            first = f"{'first' if authors_order and self.imbalance == 1 else 'first-of-this-order'} {share}"
            drawn = f"stratified {share} (seed {self.subset.seed})"
            repeated = ", repeated" if self.subset.repeat else ""
            parts.append((first if self.subset.mode == "first" else drawn) + repeated)
        if omitted := self.omitted(classes):
            parts.append(f"without classes {', '.join(map(str, omitted))} ({self.omit})")
        if self.label_noise > 0:
            parts.append(f"label noise {100 * self.label_noise:g} % (seed {self.label_noise_seed})")
        return "; ".join(parts)


def _label_of(one: int | str, classes: Sequence[str]) -> int:
    if isinstance(one, int) and 0 <= one < len(classes):
        return one
    if isinstance(one, str) and one in classes:
        return list(classes).index(one)
    close = difflib.get_close_matches(str(one), classes, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise ValueError(
        f"dataset.omit_classes: there is no class {one}{hint} "
        f"Possible: 0 to {len(classes) - 1}, or a name ({', '.join(classes[:3])}, ...)"
    )
