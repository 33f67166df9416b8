"""KD, Hinton, Vinyals and Dean 2015, arXiv:1503.02531: T^2 KL(p_T || q_T)."""

import math

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 * KL(p_T || q_T): teacher and student softmax, both softened by T, averaged over rows.

    student, teacher: logits [N, C]. Returns a scalar in nats.
    T^2 keeps the size of the gradient independent of T.
    """
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class KD(Objective):
    """`kd_loss` as an objective. Raises ValueError unless 0 < temperature < inf."""

    paper = Paper("Distilling the Knowledge in a Neural Network", 2015, "1503.02531")
    formula = "T^2 KL(p_T || q_T)"
    defaults_from = "RepDistiller and mdistiller on CIFAR-100 (T = 4); mdistiller's ImageNet runs use T = 1"
    disagreements = (
        "In TTM's script `--distill kd -b` distils nothing: KD runs through the weight -a there; ABKD's copy of that "
        "script does compute it.",
        "ABKD's CLIP code divides by rows times classes instead of rows, so its weights are those here times the "
        "number of classes.",
    )

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"KD: temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`kd_loss` of the logits: a scalar in nats."""
        return kd_loss(student.logits, teacher.logits, self.temperature)
