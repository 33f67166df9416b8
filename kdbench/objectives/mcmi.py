"""Ye, Hamidi, Tan and Yang 2024, maximum conditional mutual information (MCMI), arXiv:2401.08732.

The teacher is fine-tuned for a larger I(X; Yhat | Y): its answers vary more within a class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from kdbench.core.objective import DatasetInfo, ExtraForward, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.distributed.collectives import summed
from kdbench.functional.class_information import class_sums, conditional_mutual_information, normalise_rows


def mcmi_loss(logits: Tensor, target: Tensor, centroids: Tensor) -> Tensor:
    """The term that a teacher minimises beside the cross-entropy: minus the CMI, a scalar in nats. The centroids
    carry no gradient."""
    return -conditional_mutual_information(logits, target, centroids.detach())


class MCMI(Objective):
    """Minus the conditional mutual information of the network in training, against centroids of its own.

    mode: of the centroids: `offline`, one pass before the first step, as the published runs; `epoch`, one before each
        epoch;
        `ema`, a first pass, then before each step Q <- decay * Q + (1 - decay) * mean over `per_class` images of
        each class, drawn anew. A pass shows the views that the epoch is going to show.
    train_mode: centroids of the network in train mode, as the released code has them.
    """

    paper = Paper(
        "Bayes Conditional Distribution Estimation for Knowledge Distillation Based on Conditional Mutual Information",
        2024,
        "2401.08732",
    )
    formula = "-mean_i KL(P_i || Q_y_i), P the network's own softmax, Q_y its fixed mean over class y"
    defaults_from = (
        "the released code: fixed centroids; 8 images and decay 0.9999 of an updater that is switched off"
    )
    disagreements = (
        "The released code computes the centroids once and has an updater that is switched off: mode=ema is it, "
        "mode=epoch computes them anew for every epoch.",
        "The released code computes the centroids in train mode, with batch statistics, and so moves the running "
        "ones: train_mode=true.",
        "Its updater shows one fixed view of each image; ema draws views anew.",
    )
    needs = ("logits", "labels")
    tasks = ("images",)  # it surveys training images by class
    needs_teacher = False
    bounded = False

    def __init__(
        self,
        mode: Literal["offline", "epoch", "ema"] = "offline",
        per_class: int = 8,
        decay: float = 0.9999,
        train_mode: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("offline", "epoch", "ema"):
            raise ValueError(f"mode={mode}; possible: offline, epoch, ema")
        if per_class < 1:
            raise ValueError(f"per_class must be at least 1, got {per_class}")
        if not (math.isfinite(decay) and 0 <= decay < 1):
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.needs_class_balanced_images = mode == "ema"
        self.mode, self.per_class, self.decay, self.train_mode = mode, per_class, decay, train_mode
        self.centroids: Tensor
        self.surveyed = 0
        """The epoch of the last pass over the training set; 0 before the first."""

    def setup(
        self, student: torch.nn.Module, teacher: torch.nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Uniform centroids, until the first pass."""
        classes = dataset_info.num_classes
        uniform = torch.full((classes, classes), 1 / classes, dtype=torch.float64)
        self.register_buffer("centroids", uniform.to(probes.student.logits.device))

    def extra_forward(self, epoch: int) -> ExtraForward | None:
        """A pass where the mode wants one now; else a class-balanced draw for `ema`."""
        if self.surveyed == 0 or (self.mode == "epoch" and self.surveyed < epoch):
            return ExtraForward(train_mode=self.train_mode)
        return ExtraForward(self.per_class, self.train_mode) if self.mode == "ema" else None

    def receive_extra_forward(self, epoch: int, answers: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Centroids from the answers; where they are a draw, by the moving average."""
        sums = torch.zeros_like(self.centroids, dtype=torch.float64)
        for logits, target in answers:
            sums += class_sums(logits, target, len(sums))
        sums = summed(sums)
        if self.surveyed == 0 or self.mode == "epoch":
            self.centroids, self.surveyed = normalise_rows(sums), epoch
            return
        drawn = sums.sum(dim=-1, keepdim=True) > 0
        moved = self.decay * self.centroids + (1 - self.decay) * normalise_rows(sums)
        self.centroids = normalise_rows(torch.where(drawn, moved, self.centroids))

    def get_extra_state(self) -> int:
        """The epoch of the last pass, for the checkpoint."""
        return self.surveyed

    def set_extra_state(self, state: int) -> None:
        """As it was when the checkpoint was written."""
        self.surveyed = state

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Minus the CMI of the student's logits against the centroids, in nats."""
        return mcmi_loss(student.logits, batch.target, self.centroids)
