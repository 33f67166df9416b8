"""Class centroids and the conditional mutual information around them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PROBABILITY_FLOOR = 1e-30
"""A probability of a centroid below this counts as this: none is infinitely far from an answer."""


def class_sums(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """The softmax of logits [N, C], added up over the rows of each class: float64 [C, C], a row for each class."""
    sums = torch.zeros(num_classes, logits.shape[1], dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, target, logits.double().softmax(dim=-1))


def class_centroids(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Q_y, the mean softmax of logits [N, C] over the rows of each class: float64 [C, C], rows sum to 1.

    target: int64 [N]. A class without rows has the uniform distribution.
    """
    return normalise_rows(class_sums(logits, target, num_classes))


def normalise_rows(sums: Tensor) -> Tensor:
    """Non-negative rows [C, C] scaled to a sum of 1; a row of zeros, of a class without samples, becomes uniform."""
    mass = sums.sum(dim=-1, keepdim=True)
    return torch.where(mass > 0, sums / mass, 1 / sums.shape[-1])


def conditional_mutual_information(logits: Tensor, target: Tensor, centroids: Tensor) -> Tensor:
    """mean_i KL(P_i || Q_y_i), P the softmax of logits [N, C], Q centroids [C, C] by class: a scalar in nats.

    It is I(X; Yhat | Y) where the centroids are those of the same rows; with others it is larger by the mean
    divergence of the class means from them.
    """
    log_q = centroids[target].clamp_min(PROBABILITY_FLOOR).log().to(logits.dtype)
    return F.kl_div(log_q, F.log_softmax(logits, dim=-1), reduction="batchmean", log_target=True)
