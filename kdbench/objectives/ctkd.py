"""CTKD, Li et al. 2023, arXiv:2211.16231: T^2 KL(p_T || q_T), the student descending and T ascending."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs

LIMIT = 10.0
"""Before each training step theta is put back into [-LIMIT, LIMIT], where the sigmoid still has a slope."""


def ctkd_loss(
    student: Tensor, teacher: Tensor, theta: Tensor | float = 1.0, t_start: float = 1.0, t_end: float = 20.0
) -> Tensor:
    """T^2 * KL(p_T || q_T) at T = t_start + t_end * sigmoid(theta), averaged over rows.

    student, teacher: logits [N, C]; theta: a scalar. Returns a scalar in nats.
    The gradient reaches theta through T^2 too, and is not reversed here: `CTKD` does that.
    """
    theta = torch.as_tensor(theta, dtype=student.dtype, device=student.device)
    temperature = t_start + t_end * torch.sigmoid(theta)
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def reversal(epoch: int, epochs: int = 10) -> float:
    """What the gradient of theta is multiplied by in an epoch (from 1): a cosine from 0 to -1 at `epochs`, then -1."""
    return (math.cos(min(epoch, epochs) * math.pi / epochs) + 1) / 2 - 1


class CTKD(Objective):
    """`ctkd_loss` as an objective, with one learnable theta for all rows.

    theta: its initial value. Descending on everything, the optimiser ascends the loss in theta, at a pace that
    grows over the first `epochs` epochs. T cannot become NaN: the sigmoid keeps it between t_start and
    t_start + t_end whatever theta is, the loss is finite in value and gradient for finite logits, and theta is
    clamped to [-10, 10] before every training step, so that it cannot run away.
    Raises ValueError unless 0 < t_start < inf, 0 <= t_end < inf, -10 <= theta <= 10 and epochs >= 1.
    """

    paper = Paper("Curriculum Temperature for Knowledge Distillation", 2023, "2211.16231")
    formula = (
        "T^2 KL(p_T || q_T), T = t_start + t_end sigmoid(theta), d theta times (cos(pi epoch / 10) - 1) / 2"
    )
    defaults_from = "official code (CTKD, scripts/run_cifar_distill.sh, train_student.py)"
    disagreements = (
        "t_end is the width of the range of T, not its end, as in the official code: T lies between 1 and 21.",
        "The official code leaves theta free, and users saw NaN with DKD; here it is kept within [-10, 10].",
        "The paper's temperature per row (a network on both sides' logits) is not here.",
    )
    needs = ("logits", "epoch")

    def __init__(
        self, theta: float = 1.0, t_start: float = 1.0, t_end: float = 20.0, epochs: int = 10
    ) -> None:
        super().__init__()
        if not 0 < t_start < math.inf:
            raise ValueError(f"CTKD: t_start must be positive and finite, got {t_start}")
        if not 0 <= t_end < math.inf:
            raise ValueError(f"CTKD: t_end must be finite and not negative, got {t_end}")
        if not abs(theta) <= LIMIT:
            raise ValueError(f"CTKD: theta must be between -{LIMIT:g} and {LIMIT:g}, got {theta}")
        if epochs < 1:
            raise ValueError(f"CTKD: epochs must be at least 1, got {epochs}")
        self.t_start, self.t_end, self.epochs = t_start, t_end, epochs
        self.theta = nn.Parameter(torch.tensor(float(theta)))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`ctkd_loss` of the logits, the gradient of theta reversed by the batch's epoch: a scalar in nats."""
        if self.training:
            with torch.no_grad():
                self.theta.clamp_(-LIMIT, LIMIT)
        held = self.theta.detach()
        theta = held + reversal(batch.epoch, self.epochs) * (self.theta - held)
        return ctkd_loss(student.logits, teacher.logits, theta, self.t_start, self.t_end)
