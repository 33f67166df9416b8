"""The numbers of an analysis, as plain data and as matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from sklearn.metrics import brier_score_loss
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_accuracy

from kdbench.analysis.collect import SplitOutputs
from kdbench.functional.class_information import class_centroids, conditional_mutual_information
from kdbench.metrics.calibration import calibration_error, equal_mass, equal_width, reliability
from kdbench.metrics.classification import ECE_BINS, confidence
from kdbench.metrics.confusion import confusion, largest_confusions, per_class
from kdbench.metrics.entropy import predictive_kl, renyi_entropy, shannon_entropy, ttm_identity
from kdbench.metrics.similarity import correlation_difference, linear_cka


@dataclass(frozen=True)
class Measurements:
    """Measurements of one network or of a pair.

    Attributes:
        numbers: Plain data for JSON.
        matrices: Matrices by name, float64 or int64 [C, C].
    """

    numbers: dict[str, Any]
    matrices: dict[str, Tensor]


def measure_side(outputs: SplitOutputs, target: Tensor, classes: Sequence[str], gamma: float) -> Measurements:
    """Measure the outputs of one network: accuracies and calibration errors in per cent, the rest in nats.

    Args:
        outputs: Outputs on a split of N rows.
        target: Labels [N].
        classes: Names of the classes.
        gamma: Order of the Renyi entropy.
    """
    logits, count = outputs.logits, len(classes)
    top1_probability, correct = confidence(logits, target)
    counts, centroids = confusion(logits, target), class_centroids(logits, target, count)
    edges = {"equal_width": equal_width(), "equal_mass": equal_mass(top1_probability)}
    bins = {name: reliability(top1_probability, correct, values) for name, values in edges.items()}
    probabilities = F.softmax(logits, dim=-1).numpy()
    numbers = {
        "top1": _top(1, logits, target),
        "top5": _top(5, logits, target),
        "nll": F.cross_entropy(logits, target).item(),
        "brier": brier_score_loss(target.numpy(), probabilities, labels=range(count), scale_by_half=False),
        "ece": 100 * binary_calibration_error(top1_probability, correct, ECE_BINS).item(),
        "ece_equal_mass": calibration_error(bins["equal_mass"]),
        "confidence": 100 * top1_probability.mean().item(),
        "shannon_entropy": shannon_entropy(logits).mean().item(),
        "renyi_entropy": renyi_entropy(logits, gamma).mean().item(),
        "cmi": conditional_mutual_information(logits, target, centroids).item(),
        "reliability": bins,
        "classes": per_class(counts, classes),
        "confusions": largest_confusions(counts, classes),
        "features": None if outputs.features is None else outputs.features.shape[1],
    }
    return Measurements(numbers, {"centroids": centroids, "confusion": counts})


def _top(k: int, logits: Tensor, target: Tensor) -> float:
    """Return top-k accuracy in per cent, rounded to four decimals because torchmetrics divides in float32."""
    count = logits.shape[1]
    share = multiclass_accuracy(logits, target, count, average="micro", top_k=min(k, count))
    return round(100 * share.item(), 4)


def measure_pair(reference: SplitOutputs, subject: SplitOutputs, gamma: float) -> Measurements:
    """Compare the outputs of two networks: agreement in per cent, divergences in nats.

    Args:
        reference: Outputs of the reference, usually the teacher.
        subject: Outputs of the subject on the same rows.
        gamma: Exponent 1 / T of the power transform.
    """
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
    return Measurements(numbers, {"correlation_difference": difference})


def _cka(reference: Tensor | None, subject: Tensor | None) -> dict[str, float | None]:
    """Return linear CKA; None without features, with fewer than 4 rows, or if all rows are equal."""
    if reference is None or subject is None or len(reference) < 4:
        return {"unbiased": None, "biased": None}
    values = {
        name: linear_cka(reference, subject, unbiased)
        for name, unbiased in (("unbiased", True), ("biased", False))
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _off_diagonal_mean(matrix: Tensor) -> float:
    """Return the mean without the diagonal, which is 0 for a difference of correlation matrices."""
    count = len(matrix)
    return (matrix.sum() - matrix.diagonal().sum()).item() / max(count * (count - 1), 1)
