"""All the numbers of an analysis, as plain data and as matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from sklearn.metrics import brier_score_loss
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_accuracy

from kdbench.analysis.collect import Answers
from kdbench.functional.class_information import class_centroids, conditional_mutual_information
from kdbench.metrics.calibration import calibration_error, equal_mass, equal_width, reliability
from kdbench.metrics.classification import ECE_BINS, confidence
from kdbench.metrics.confusion import confusion, largest_confusions, per_class
from kdbench.metrics.entropy import predictive_kl, renyi_entropy, shannon_entropy, ttm_identity
from kdbench.metrics.similarity import correlation_difference, linear_cka


@dataclass(frozen=True)
class Measured:
    """numbers: plain data for JSON; matrices: float64 or int64 [C, C] by name."""

    numbers: dict[str, Any]
    matrices: dict[str, Tensor]


def of_one(answers: Answers, target: Tensor, classes: Sequence[str], gamma: float) -> Measured:
    """What one side's answers say: accuracies and calibration errors in per cent, the rest in nats."""
    logits, count = answers.logits, len(classes)
    sure, right = confidence(logits, target)
    counts, centroids = confusion(logits, target), class_centroids(logits, target, count)
    edges = {"equal_width": equal_width(), "equal_mass": equal_mass(sure)}
    bins = {name: reliability(sure, right, values) for name, values in edges.items()}
    probabilities = F.softmax(logits, dim=-1).numpy()
    numbers = {
        "top1": _top(1, logits, target),
        "top5": _top(5, logits, target),
        "nll": F.cross_entropy(logits, target).item(),
        "brier": brier_score_loss(target.numpy(), probabilities, labels=range(count), scale_by_half=False),
        "ece": 100 * binary_calibration_error(sure, right, ECE_BINS).item(),
        "ece_equal_mass": calibration_error(bins["equal_mass"]),
        "confidence": 100 * sure.mean().item(),
        "shannon_entropy": shannon_entropy(logits).mean().item(),
        "renyi_entropy": renyi_entropy(logits, gamma).mean().item(),
        "cmi": conditional_mutual_information(logits, target, centroids).item(),
        "reliability": bins,
        "classes": per_class(counts, classes),
        "confusions": largest_confusions(counts, classes),
        "features": None if answers.features is None else answers.features.shape[1],
    }
    return Measured(numbers, {"centroids": centroids, "confusion": counts})


def _top(k: int, logits: Tensor, target: Tensor) -> float:
    """In per cent, to the fourth decimal: torchmetrics divides in float32."""
    count = logits.shape[1]
    share = multiclass_accuracy(logits, target, count, average="micro", top_k=min(k, count))
    return round(100 * share.item(), 4)


def of_pair(reference: Answers, subject: Answers, gamma: float) -> Measured:
    """What the answers of two sides have in common: agreement in per cent, divergences in nats."""
    same = reference.logits.argmax(dim=-1) == subject.logits.argmax(dim=-1)
    difference = correlation_difference(reference.logits, subject.logits)
    numbers = {
        "agreement": 100 * same.double().mean().item(),
        "predictive_kl": predictive_kl(reference.logits, subject.logits),
        "ttm": ttm_identity(reference.logits, subject.logits, gamma),
        "cka": _cka(reference.features, subject.features),
        "correlation_difference": {
            "mean": _off_diagonal_mean(difference.abs()),
            "max": difference.abs().max().item(),
        },
    }
    return Measured(numbers, {"correlation_difference": difference})


def _cka(reference: Tensor | None, subject: Tensor | None) -> dict[str, float | None]:
    """Nothing where a side has no such features, too few rows, or the same in all of them."""
    if reference is None or subject is None or len(reference) < 4:
        return {"unbiased": None, "biased": None}
    values = {
        name: linear_cka(reference, subject, unbiased)
        for name, unbiased in (("unbiased", True), ("biased", False))
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _off_diagonal_mean(matrix: Tensor) -> float:
    """The diagonal of a difference of correlation matrices is 0 by definition, and left out."""
    count = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()).item() / max(count * (count - 1), 1)
