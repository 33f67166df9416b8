"""CTKD (Li et al. 2023, arXiv:2211.16231): KD at a temperature that is trained adversarially."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.utils.validation import check_at_least, check_between, check_non_negative, check_positive

LIMIT = 10.0
"""Bound of |theta|; theta is clamped to it before each training step, where the sigmoid still has a slope."""


def ctkd_loss(
    student: Tensor, teacher: Tensor, theta: Tensor | float = 1.0, t_start: float = 1.0, t_end: float = 20.0
) -> Tensor:
    """Return T^2 * KL(p_T || q_T) at T = t_start + t_end * sigmoid(theta), averaged over rows.

    The gradient reaches theta through T^2 as well. It is not reversed here; `CTKD` does that.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        theta: Scalar that determines the temperature.
        t_start: Lower end of the range of T.
        t_end: Width of the range of T.

    Returns:
        A scalar in nats.
    """
    theta = torch.as_tensor(theta, dtype=student.dtype, device=student.device)
    temperature = t_start + t_end * torch.sigmoid(theta)
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def reversal(epoch: int, epochs: int = 10) -> float:
    """Return the factor of the gradient of theta: a cosine from 0 to -1 at `epochs`, then -1.

    Args:
        epoch: The current epoch, from 1.
        epochs: Length of the ramp in epochs.
    """
    return (math.cos(min(epoch, epochs) * math.pi / epochs) + 1) / 2 - 1


class CTKD(Objective):
    """`ctkd_loss` as an objective, with one learnable theta for all rows.

    The gradient of theta is reversed, so the optimiser ascends the loss in theta, at a rate that grows over
    the first `epochs` epochs. T cannot become NaN: the sigmoid keeps it between t_start and t_start + t_end,
    and the loss and its gradient are finite for finite logits. theta is clamped to [-10, 10] before every
    training step, so it cannot run away.

    Args:
        theta: Initial value of theta.
        t_start: Lower end of the range of T.
        t_end: Width of the range of T.
        epochs: Epochs over which the reversed gradient reaches full size.

    Raises:
        ValueError: If `t_start` is not positive and finite, `t_end` is negative or not finite, `theta` is not
            in [-10, 10], or `epochs` is below 1.
    """

    paper = Paper("Curriculum Temperature for Knowledge Distillation", 2023, "2211.16231")
    formula = (
        "T^2 KL(p_T || q_T), T = t_start + t_end sigmoid(theta), d theta times (cos(pi epoch / 10) - 1) / 2"
    )
    defaults_from = "the official code (CTKD, scripts/run_cifar_distill.sh, train_student.py)"
    disagreements = (
        "t_end is the width of the range of T, not its upper end, as in the official code: T lies between 1 "
        "and 21.",
        "The official code does not bound theta, and users report NaN with DKD; here it stays within [-10, "
        "10].",
        "The paper's temperature per row (a network on both sides' logits) is not implemented.",
    )
    needs = ("logits", "epoch")

    def __init__(
        self, theta: float = 1.0, t_start: float = 1.0, t_end: float = 20.0, epochs: int = 10
    ) -> None:
        super().__init__()
        check_positive("CTKD", t_start=t_start)
        check_non_negative("CTKD", t_end=t_end)
        check_between("CTKD", -LIMIT, LIMIT, theta=theta)
        check_at_least("CTKD", 1, epochs=epochs)
        self.t_start, self.t_end, self.epochs = t_start, t_end, epochs
        self.theta = nn.Parameter(torch.tensor(float(theta)))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `ctkd_loss` of the logits, a scalar in nats, with the gradient of theta reversed."""
        if self.training:
            with torch.no_grad():
                self.theta.clamp_(-LIMIT, LIMIT)
        constant = self.theta.detach()
        theta = constant + reversal(batch.epoch, self.epochs) * (self.theta - constant)
        return ctkd_loss(student.logits, teacher.logits, theta, self.t_start, self.t_end)
