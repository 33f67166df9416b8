"""Which classes are recognised, and for which others they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

LARGEST = 10


def confusion(logits: Tensor, target: Tensor) -> Tensor:
    """How many rows of each class (first axis) were given each class: int64 [C, C]. logits: [N, C]; target: [N]."""
    counts: Tensor = multiclass_confusion_matrix(logits, target, logits.shape[1])
    return counts


def per_class(counts: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class its rows and the per cent of them that were recognised (None where it has none)."""
    rows = counts.sum(dim=1).tolist()
    right = counts.diagonal().tolist()
    return [
        {"class": name, "count": count, "accuracy": 100 * hits / count if count else None}
        for name, count, hits in zip(names, rows, right, strict=True)
    ]


def largest_confusions(counts: Tensor, names: Sequence[str], largest: int = LARGEST) -> list[dict[str, Any]]:
    """The pairs (true, predicted) that were confused most often, with the per cent of the true class's rows.

    Ties: the pair that comes first in the order of the classes.
    """
    wrong = counts.clone()
    wrong.fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:largest].tolist()
    places = [(place // len(names), place % len(names)) for place in order]
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": int(wrong[true, predicted]),
            "share": 100 * int(wrong[true, predicted]) / int(counts[true].sum()),
        }
        for true, predicted in places
        if wrong[true, predicted]
    ]
