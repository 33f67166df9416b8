"""Class centroids and the conditional mutual information around them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PROBABILITY_FLOOR = 1e-30
"""Lower bound of the probabilities of centroids, so that no divergence is infinite."""


def class_sums(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Return the softmax of logits [N, C], summed over the rows of each class: float64 [C, C], one row per class."""
    sums = torch.zeros(num_classes, logits.shape[1], dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, target, logits.double().softmax(dim=-1))


def class_centroids(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Return Q_y, the mean softmax over the rows of each class: float64 [C, C], rows sum to 1.

    Args:
        logits: Logits [N, C].
        target: Labels, int64 [N]. A class without rows has the uniform distribution.
        num_classes: C.
    """
    return normalise_rows(class_sums(logits, target, num_classes))


def normalise_rows(sums: Tensor) -> Tensor:
    """Scale non-negative rows [C, C] to a sum of 1; a row of zeros becomes uniform."""
    mass = sums.sum(dim=-1, keepdim=True)
    return torch.where(mass > 0, sums / mass, 1 / sums.shape[-1])


def conditional_mutual_information(logits: Tensor, target: Tensor, centroids: Tensor) -> Tensor:
    """Return mean_i KL(P_i || Q_y_i), where P is the softmax of the logits: a scalar in nats.

    This is I(X; Yhat | Y) if the centroids are those of the same rows. With others it is larger by the mean divergence
    of the class means from them.

    Args:
        logits: Logits [N, C].
        target: Labels, int64 [N].
        centroids: Q, one row per class [C, C].
    """
    log_q = centroids[target].clamp_min(PROBABILITY_FLOOR).log().to(logits.dtype)
    return F.kl_div(log_q, F.log_softmax(logits, dim=-1), reduction="batchmean", log_target=True)
