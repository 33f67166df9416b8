"""One analysis: the networks, their outputs on a split, and the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdbench.analysis.collect import SplitOutputs, collect, targets
from kdbench.analysis.measure import Measurements, measure_pair, measure_side
from kdbench.analysis.networks import Side
from kdbench.data.images.image_data import ImageData
from kdbench.utils.provenance import provenance
from kdbench.utils.seeding import generator

SCHEMA = 1
IMAGES = 6
"""Default number of images of Eigen-CAM."""


@dataclass(frozen=True)
class SideResult:
    """A network with its outputs and measurements."""

    side: Side
    outputs: SplitOutputs
    measurements: Measurements


@dataclass(frozen=True)
class Study:
    """The complete results of an analysis.

    Attributes:
        data: The data set.
        split: `train`, `validation` or `test`.
        target: The labels [N].
        images: Rows that Eigen-CAM shows.
        subject: The network under analysis.
        reference: The network that it is compared with.
        pair: Measurements of both together.
        numbers: The contents of analysis.json.
    """

    data: ImageData
    split: str
    target: Tensor
    images: list[int]
    subject: SideResult
    reference: SideResult | None
    pair: Measurements | None
    numbers: dict[str, Any]

    @property
    def results(self) -> list[SideResult]:
        """The networks in the order of tables and plots: the reference first."""
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
    """Analyse one or two networks on a split.

    Args:
        data: Data that are set up.
        split: `train`, `validation` or `test`.
        subject: The network under analysis.
        reference: The network to compare with.
        gamma: Order of the Renyi entropy and exponent of the power transform.
        gamma_from: Source of gamma, for the page.
        images: Rows for Eigen-CAM; by default a few, drawn with a fixed seed.
        command: The command line, for the page.
        notes: Lines for the page.

    Raises:
        ValueError: A row does not exist, or outputs are not finite.
    """
    shown = _rows(data, split, images)
    target = targets(data, split)
    sides = [
        None if side is None else _measure(side, data, split, target, gamma) for side in (subject, reference)
    ]
    first, second = sides
    assert first is not None
    pair = measure_pair(second.outputs, first.outputs, gamma) if second else None
    numbers = {
        "schema": SCHEMA,
        "command": command,
        "dataset": {"name": data.name, "split": split, "images": len(target), "classes": data.num_classes},
        "fingerprint": data.fingerprint,
        "gamma": {"value": gamma, "from": gamma_from},
        "subject": _describe(first),
        "reference": _describe(second) if second else None,
        "pair": pair.numbers if pair else None,
        "notes": [*notes, *_missing(first, second)],
        "provenance": provenance(),
    }
    return Study(data, split, target, shown, first, second, pair, numbers)


def _rows(data: ImageData, split: str, images: Sequence[int] | None) -> list[int]:
    size = data.eval_size(split)
    if images is None:
        return sorted(torch.randperm(size, generator=generator(0, "analyze", "images"))[:IMAGES].tolist())
    if stray := [row for row in images if not 0 <= row < size]:
        raise ValueError(f"images={list(images)}: {split} has rows 0 to {size - 1}, and not {stray[0]}")
    return list(images)


def _measure(side: Side, data: ImageData, split: str, target: Tensor, gamma: float) -> SideResult:
    outputs = collect(side, data, split)
    return SideResult(side, outputs, measure_side(outputs, target, data.classes, gamma))


def _describe(result: SideResult) -> dict[str, Any]:
    side = result.side
    about = {
        "role": side.role,
        "model": side.name,
        "file": ", ".join(file.name for file in side.files),
        "hash": side.hash,
    }
    return about | result.measurements.numbers


def _missing(subject: SideResult, reference: SideResult | None) -> list[str]:
    """Return a line for each measurement that is not possible."""
    sides = [subject, reference] if reference else [subject]
    return [
        f"{result.side.title} has no pooled features, because it does not end in one linear layer: no CKA."
        for result in sides
        if result.outputs.features is None
    ]
