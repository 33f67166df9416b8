"""DCD (Giakoumoglou and Stathaki 2024, arXiv:2407.11802): contrastive loss plus consistency of similarities."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.functional.feature_maps import unit_vectors
from kdbench.utils.validation import check_at_least, check_between, check_finite, check_non_negative


def dcd_loss(
    student: Tensor,
    teacher: Tensor,
    scale: Tensor,
    bias: Tensor,
    alpha: float = 0.5,
    detach_target: bool = False,
) -> Tensor:
    """Return the contrastive loss plus alpha times the consistency loss, averaged over rows.

    S = scale * cosine + bias compares every student vector with every teacher vector of the batch. The
    contrastive loss is the cross-entropy of each row of S on its own teacher. The consistency loss is the KL
    divergence of each row's softmax (over teachers) from the softmax of the matching column (over students).

    Args:
        student: Embedded vectors [N, D].
        teacher: Embedded vectors [N, D].
        scale: Scalar factor of the cosines.
        bias: Scalar added to the similarities.
        alpha: Weight of the consistency loss.
        detach_target: Stop the gradient through the softmax of the columns.

    Returns:
        A scalar in nats; 0 for N = 1.
    """
    similarity = scale * (unit_vectors(student) @ unit_vectors(teacher).mT) + bias
    log_q, log_p = F.log_softmax(similarity, dim=1), F.log_softmax(similarity.mT, dim=1)
    if detach_target:
        log_p = log_p.detach()
    return alpha * kl(log_p, log_q).mean() - log_q.diagonal().mean()


class DCD(Objective):
    """`dcd_loss` of linear embeddings of the pooled features, with scale = min(exp(theta), max_scale).

    The embeddings, theta and the bias (from 0) are learned.

    Args:
        dimension: D, the width of the embeddings.
        alpha: Weight of the consistency loss.
        theta: Initial value of theta.
        max_scale: Upper bound of the scale.
        detach_target: Stop the gradient through the target of the consistency loss.

    Raises:
        ValueError: If `dimension` is below 1, `alpha` is negative or not finite, `theta` is not finite, or
            `max_scale` is not finite and above exp(theta).
    """

    paper = Paper("Discriminative and Consistent Representation Distillation", 2024, "2407.11802")
    formula = "CE(S, diagonal) + alpha KL(softmax(S^T) || softmax(S)), S = min(e^theta, 10) <e_s, e_t> + b"
    defaults_from = "the authors' code for CIFAR-100: dimension 128, alpha 0.5, theta 1, scale up to 10"
    disagreements = (
        "As in the code, the target of the consistency loss carries gradient to both sides; "
        "detach_target=True makes it constant.",
        "The bias adds the same to every class of each softmax, so it changes neither the value nor the "
        "gradient.",
        "Where exp(theta) exceeds max_scale, theta has no gradient.",
    )
    needs = ("pooled",)
    student_features = teacher_features = ("pooled",)
    couples_rows = True
    depends_on_batch_size = True

    def __init__(
        self,
        dimension: int = 128,
        alpha: float = 0.5,
        theta: float = 1.0,
        max_scale: float = 10.0,
        detach_target: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("DCD", 1, dimension=dimension)
        check_non_negative("DCD", alpha=alpha)
        check_finite("DCD", theta=theta)
        check_between("DCD", math.exp(min(theta, 700)), math.inf, closed="neither", max_scale=max_scale)
        self.dimension, self.alpha, self.detach_target = dimension, alpha, detach_target
        self.initial_theta, self.max_scale = theta, max_scale

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the embeddings, theta and the bias."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.student_embedding = nn.Linear(ours.shape[1], self.dimension)
        self.teacher_embedding = nn.Linear(theirs.shape[1], self.dimension)
        self.theta = nn.Parameter(torch.tensor(float(self.initial_theta)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `dcd_loss` of the embedded vectors: a scalar in nats."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        embedded = self.student_embedding(ours), self.teacher_embedding(theirs)
        scale = self.theta.exp().clamp(max=self.max_scale)
        return dcd_loss(*embedded, scale, self.bias, self.alpha, self.detach_target)
