"""One analysis: the sides, their answers to a split, and all that is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdbench.analysis.collect import Answers, collect, targets
from kdbench.analysis.measure import Measured, of_one, of_pair
from kdbench.analysis.networks import Side
from kdbench.data.images.image_data import ImageData
from kdbench.utils.provenance import provenance
from kdbench.utils.seeding import generator

SCHEMA = 1
IMAGES = 6
"""How many images Eigen-CAM shows where none were chosen."""


@dataclass(frozen=True)
class Looked:
    """A side with what it answered and what that says."""

    side: Side
    answers: Answers
    measured: Measured


@dataclass(frozen=True)
class Study:
    """What is written and drawn. target: the labels [N]; images: the rows that Eigen-CAM shows.

    numbers: all of analysis.json, but for the files written beside it.
    """

    data: ImageData
    split: str
    target: Tensor
    images: list[int]
    subject: Looked
    reference: Looked | None
    pair: Measured | None
    numbers: dict[str, Any]

    @property
    def looked(self) -> list[Looked]:
        """The columns of tables and pictures: the reference first."""
        return [self.reference, self.subject] if self.reference else [self.subject]


def study(
    data: ImageData,
    split: str,
    subject: Side,
    reference: Side | None,
    *,
    gamma: float,
    gamma_from: str,
    images: Sequence[int] | None = None,
    command: str = "",
    notes: Sequence[str] = (),
) -> Study:
    """Look at one or two sides on a split of data that are set up.

    gamma: the order of Renyi's entropy and the power of the transform; gamma_from: where it is from, in words.
    images: rows for Eigen-CAM; by default a few drawn at random, the same ones for all networks.
    Raises ValueError for an impossible row, or answers that are not finite.
    """
    shown = _rows(data, split, images)
    target = targets(data, split)
    looked = [
        None if side is None else _look(side, data, split, target, gamma) for side in (subject, reference)
    ]
    first, second = looked
    assert first is not None
    pair = of_pair(second.answers, first.answers, gamma) if second else None
    numbers = {
        "schema": SCHEMA,
        "command": command,
        "dataset": {"name": data.name, "split": split, "images": len(target), "classes": data.num_classes},
        "fingerprint": data.fingerprint,
        "gamma": {"value": gamma, "from": gamma_from},
        "subject": _said(first),
        "reference": _said(second) if second else None,
        "pair": pair.numbers if pair else None,
        "notes": [*notes, *_missing(first, second)],
        "made": provenance(),
    }
    return Study(data, split, target, shown, first, second, pair, numbers)


def _rows(data: ImageData, split: str, images: Sequence[int] | None) -> list[int]:
    size = data.eval_size(split)
    if images is None:
        return sorted(torch.randperm(size, generator=generator(0, "analyze", "images"))[:IMAGES].tolist())
    if stray := [row for row in images if not 0 <= row < size]:
        raise ValueError(f"images={list(images)}: {stray[0]} is no row of {split}, which has 0 to {size - 1}")
    return list(images)


def _look(side: Side, data: ImageData, split: str, target: Tensor, gamma: float) -> Looked:
    answers = collect(side, data, split)
    return Looked(side, answers, of_one(answers, target, data.classes, gamma))


def _said(looked: Looked) -> dict[str, Any]:
    side = looked.side
    about = {
        "role": side.role,
        "model": side.name,
        "file": ", ".join(file.name for file in side.files),
        "hash": side.hash,
    }
    return about | looked.measured.numbers


def _missing(subject: Looked, reference: Looked | None) -> list[str]:
    """What could not be measured, and why."""
    sides = [subject, reference] if reference else [subject]
    return [
        f"{looked.side.title} has no pooled features, for it does not end in one linear layer: no CKA."
        for looked in sides
        if looked.answers.features is None
    ]
