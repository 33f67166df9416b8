"""Confusion matrix, accuracy of each class, and the most frequent confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

NUM_CONFUSIONS = 10


def confusion(logits: Tensor, target: Tensor) -> Tensor:
    """Count the samples of each class (first axis) by predicted class (second axis).

    Args:
        logits: [N, C].
        target: int64 [N].

    Returns:
        int64 [C, C].
    """
    counts: Tensor = multiclass_confusion_matrix(logits, target, logits.shape[1])
    return counts


def per_class(counts: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return `class`, `count` and `accuracy` (per cent; None without samples) for each class of a confusion matrix."""
    totals = counts.sum(dim=1).tolist()
    correct = counts.diagonal().tolist()
    return [
        {"class": name, "count": count, "accuracy": 100 * hits / count if count else None}
        for name, count, hits in zip(names, totals, correct, strict=True)
    ]


def largest_confusions(
    counts: Tensor, names: Sequence[str], largest: int = NUM_CONFUSIONS
) -> list[dict[str, Any]]:
    """Return the most frequent confusions, the most frequent first; ties keep the order of the classes.

    Args:
        counts: Confusion matrix, int64 [C, C].
        names: Names of the C classes.
        largest: Maximum number of pairs.

    Returns:
        `true`, `predicted`, `count` and `share` (per cent of the samples of the true class) for each pair.
    """
    wrong = counts.clone()
    wrong.fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:largest].tolist()
    pairs = [(index // len(names), index % len(names)) for index in order]
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": int(wrong[true, predicted]),
            "share": 100 * int(wrong[true, predicted]) / int(counts[true].sum()),
        }
        for true, predicted in pairs
        if wrong[true, predicted]
    ]
