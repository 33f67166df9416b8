"""NKD (Yang et al. 2023, arXiv:2303.13005): target term plus cross-entropy among the other classes."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import decouple
from kdbench.utils.validation import check_non_negative, check_positive


def nkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, gamma: float = 1.5, temperature: float = 1.0
) -> Tensor:
    """Return the target term plus gamma * T^2 * the cross-entropy among the other classes.

    Both are averaged over rows.

    The target term is -p_y log q_y at temperature 1. The C - 1 other classes are renormalised on each side
    and softened by T; their term is 0 for C = 2. This is a cross-entropy, not a divergence: it is not 0 where
    student and teacher agree.

    Args:
        student: Student logits [N, C], C >= 2.
        teacher: Teacher logits [N, C].
        target: Class indices, int64 [N].
        gamma: Weight of the other classes.
        temperature: T of the other classes.

    Returns:
        A scalar in nats.
    """
    index = target[:, None]
    p_target = F.softmax(teacher, dim=-1).gather(-1, index)
    log_q_target = F.log_softmax(student, dim=-1).gather(-1, index)
    _, log_p_others = decouple(teacher / temperature, target)
    _, log_q_others = decouple(student / temperature, target)
    others = -(log_p_others.exp() * log_q_others).sum(dim=-1).mean()
    return gamma * temperature**2 * others - (p_target * log_q_target).mean()


class NKD(Objective):
    """`nkd_loss` as an objective, with the same parameters.

    Raises:
        ValueError: If `temperature` is not positive and finite, or `gamma` is negative or not finite.
    """

    paper = Paper(
        "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss "
        "and Customized Soft Labels",
        2023,
        "2303.13005",
    )
    formula = "-p_y log q_y + gamma T^2 CE(p_T, q_T among the classes other than y)"
    defaults_from = (
        "the official code (cls_KD) for convolutional networks on ImageNet; for CIFAR-100 it uses gamma 3.5,"
        " T 3"
    )
    disagreements = (
        "The official code also accepts soft labels (mixup) and takes their largest class; here a label is "
        "an index.",
    )
    needs = ("logits", "labels")

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive("NKD", temperature=temperature)
        check_non_negative("NKD", gamma=gamma)
        self.gamma, self.temperature = gamma, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `nkd_loss` of the logits and the batch's target: a scalar in nats."""
        return nkd_loss(student.logits, teacher.logits, batch.target, self.gamma, self.temperature)
