"""DCD, Giakoumoglou and Stathaki 2024, arXiv:2407.11802: CE(S, diagonal) + alpha KL(columns of S || rows of S)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl
from kdbench.functional.feature_maps import unit_vectors


def dcd_loss(
    student: Tensor,
    teacher: Tensor,
    scale: Tensor,
    bias: Tensor,
    alpha: float = 0.5,
    detach_target: bool = False,
) -> Tensor:
    """Each row's cross-entropy to its own teacher among the batch's, and alpha times the consistency.

    student, teacher: embedded vectors [N, D], compared by S = scale * cosine + bias; scale, bias: scalars.
    Returns a scalar in nats, mean over rows; 0 for N = 1. The consistency is the KL of the softmax of S over
    the teachers of a student from that over the students of a teacher.
    detach_target: no gradient through the latter.
    """
    similarity = scale * (unit_vectors(student) @ unit_vectors(teacher).mT) + bias
    log_q, log_p = F.log_softmax(similarity, dim=1), F.log_softmax(similarity.mT, dim=1)
    if detach_target:
        log_p = log_p.detach()
    return alpha * kl(log_p, log_q).mean() - log_q.diagonal().mean()


class DCD(Objective):
    """`dcd_loss` of linear embeddings of the pooled features; scale = min(exp(theta), max_scale).

    dimension: D of the embeddings, both learned, as are theta (from the value given) and the bias (from 0).
    Raises ValueError unless dimension >= 1, theta is finite, 0 <= alpha < inf and exp(theta) < max_scale < inf.
    """

    paper = Paper("Discriminative and Consistent Representation Distillation", 2024, "2407.11802")
    formula = "CE(S, diagonal) + alpha KL(softmax(S^T) || softmax(S)), S = min(e^theta, 10) <e_s, e_t> + b"
    defaults_from = "The authors' code for CIFAR-100: 128 dimensions, alpha 0.5, theta 1, scale up to 10"
    disagreements = (
        "As in the code, the target of the consistency carries gradient to both sides; detach_target=True "
        "makes it a fixed target.",
        "The bias adds the same to every class of each softmax, so it changes neither value nor gradient.",
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
        if dimension < 1:
            raise ValueError(f"DCD: dimension must be 1 or more, got {dimension}")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"DCD: alpha must be finite and not negative, got {alpha}")
        if not math.isfinite(theta):
            raise ValueError(f"DCD: theta must be finite, got {theta}")
        if not math.exp(min(theta, 700)) < max_scale < math.inf:
            raise ValueError(f"DCD: max_scale must be finite and above exp(theta), got {max_scale}")
        self.dimension, self.alpha, self.detach_target = dimension, alpha, detach_target
        self.initial_theta, self.max_scale = theta, max_scale

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the embeddings, theta and the bias."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.student_embedding = nn.Linear(ours.shape[1], self.dimension)
        self.teacher_embedding = nn.Linear(theirs.shape[1], self.dimension)
        self.theta = nn.Parameter(torch.tensor(float(self.initial_theta)))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`dcd_loss` of the embedded vectors: a scalar in nats."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        embedded = self.student_embedding(ours), self.teacher_embedding(theirs)
        scale = self.theta.exp().clamp(max=self.max_scale)
        return dcd_loss(*embedded, scale, self.bias, self.alpha, self.detach_target)
