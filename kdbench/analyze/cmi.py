"""Conditional mutual information of a classifier's outputs and its input, Ye et al. 2024, arXiv:2401.08732."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.divergences import kl


def class_centroids(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """The mean softmax output of each class's rows: [C, C], rows sum to 1; uniform for a class without rows.

    logits: [N, C]; target: class indices [N].
    """
    one_hot = F.one_hot(target, num_classes).to(logits.dtype)
    counts = one_hot.sum(dim=0)[:, None]
    means = one_hot.T @ F.softmax(logits, dim=-1) / counts.clamp(min=1)
    return torch.where(counts > 0, means, 1 / num_classes)


def conditional_mutual_information(logits: Tensor, target: Tensor, centroids: Tensor) -> Tensor:
    """The mean over rows of KL(softmax(logits) || centroid of the row's class): a scalar in nats.

    logits: [N, C]; target: class indices [N]; centroids: [C, C], rows sum to 1.
    """
    # a centroid of 0 comes from outputs that all underflow: they add nothing, and must not add 0 * log 0
    log_centroids = centroids.clamp(min=torch.finfo(centroids.dtype).tiny).log()
    return kl(F.log_softmax(logits, dim=-1), log_centroids[target]).mean()
