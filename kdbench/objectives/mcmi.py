"""MCMI (Ye, Hamidi, Tan and Yang 2024, arXiv:2401.08732): maximum conditional mutual information.

A loss for teachers: fine-tuning for a larger I(X; Yhat | Y) makes the outputs vary more within a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from kdbench.core.objective import DatasetInfo, ExtraForward, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.distributed.collectives import summed
from kdbench.functional.class_information import class_sums, conditional_mutual_information, normalise_rows
from kdbench.utils.validation import check_at_least, check_choice, check_fraction


def mcmi_loss(logits: Tensor, target: Tensor, centroids: Tensor) -> Tensor:
    """Return minus the conditional mutual information: a teacher's loss besides cross-entropy.

    Args:
        logits: The network's own logits [N, C].
        target: Class indices, int64 [N].
        centroids: Class centroids [C, C], one distribution per class; no gradient flows to them.

    Returns:
        A scalar in nats.
    """
    return -conditional_mutual_information(logits, target, centroids.detach())


class MCMI(Objective):
    """Minus the conditional mutual information of the network in training, against its own class centroids.

    Args:
        mode: When the centroids are computed. `offline`: in one pass before the first step, as in the
            published runs. `epoch`: in one pass before each epoch. `ema`: in a first pass, and then before
            each step by Q <- decay * Q + (1 - decay) * mean over `per_class` images of each class, drawn
            anew. A pass uses the views that the epoch is going to use.
        per_class: Images of each class in an update of `ema`.
        decay: Decay of the moving average of `ema`.
        train_mode: Compute the centroids in train mode, as the released code does.

    Raises:
        ValueError: If `mode` is unknown, `per_class` is below 1, or `decay` is not in [0, 1).
    """

    paper = Paper(
        "Bayes Conditional Distribution Estimation for Knowledge Distillation Based on Conditional Mutual Information",
        2024,
        "2401.08732",
    )
    formula = "-mean_i KL(P_i || Q_y_i), P the network's own softmax, Q_y its fixed mean over class y"
    defaults_from = (
        "the released code: fixed centroids; 8 images and decay 0.9999 belong to an updater that is switched"
        " off there"
    )
    disagreements = (
        "The released code computes the centroids once; its updater is switched off. mode=ema is that "
        "updater, and mode=epoch recomputes the centroids for every epoch.",
        "The released code computes the centroids in train mode, with batch statistics, and so changes the "
        "running statistics: train_mode=true.",
        "The released updater uses one fixed view of each image; mode=ema draws views anew.",
    )
    needs = ("logits", "labels")
    tasks = ("images",)  # it needs extra forward passes over training images
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
        check_choice("MCMI", ("offline", "epoch", "ema"), mode=mode)
        check_at_least("MCMI", 1, per_class=per_class)
        check_fraction("MCMI", closed="left", decay=decay)
        self.needs_class_balanced_images = mode == "ema"
        self.mode, self.per_class, self.decay, self.train_mode = mode, per_class, decay, train_mode
        self.centroids: Tensor
        self.last_pass = 0
        """The epoch of the last pass over the training set; 0 before the first."""

    def setup(
        self, student: torch.nn.Module, teacher: torch.nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Register uniform centroids, which the first pass replaces."""
        classes = dataset_info.num_classes
        uniform = torch.full((classes, classes), 1 / classes, dtype=torch.float64)
        self.register_buffer("centroids", uniform.to(probes.student.logits.device))

    def extra_forward(self, epoch: int) -> ExtraForward | None:
        """Return a full pass if the mode needs one now, a class-balanced draw for `ema`, else None."""
        if self.last_pass == 0 or (self.mode == "epoch" and self.last_pass < epoch):
            return ExtraForward(train_mode=self.train_mode)
        return ExtraForward(self.per_class, self.train_mode) if self.mode == "ema" else None

    def receive_extra_forward(self, epoch: int, answers: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Compute the centroids from the answers, or move them towards those of a draw."""
        sums = torch.zeros_like(self.centroids, dtype=torch.float64)
        for logits, target in answers:
            sums += class_sums(logits, target, len(sums))
        sums = summed(sums)
        if self.last_pass == 0 or self.mode == "epoch":
            self.centroids, self.last_pass = normalise_rows(sums), epoch
            return
        has_samples = sums.sum(dim=-1, keepdim=True) > 0
        average = self.decay * self.centroids + (1 - self.decay) * normalise_rows(sums)
        self.centroids = normalise_rows(torch.where(has_samples, average, self.centroids))

    def get_extra_state(self) -> int:
        """Return the epoch of the last pass, for the checkpoint."""
        return self.last_pass

    def set_extra_state(self, state: int) -> None:
        """Restore the epoch of the last pass from a checkpoint."""
        self.last_pass = state

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return minus the CMI of the student's logits against the centroids: a scalar in nats."""
        return mcmi_loss(student.logits, batch.target, self.centroids)
