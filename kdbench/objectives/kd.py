"""KD (Hinton, Vinyals and Dean 2015, arXiv:1503.02531): KL divergence of softened probabilities."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.utils.validation import check_positive


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Return T^2 * KL(p_T || q_T), averaged over rows.

    The factor T^2 keeps the size of the gradient independent of T.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].
        temperature: T, which divides the logits of both sides.

    Returns:
        A scalar in nats.
    """
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class KD(Objective):
    """`kd_loss` as an objective, with the same parameter.

    Raises:
        ValueError: If `temperature` is not positive and finite.
    """

    paper = Paper("Distilling the Knowledge in a Neural Network", 2015, "1503.02531")
    formula = "T^2 KL(p_T || q_T)"
    defaults_from = "RepDistiller and mdistiller on CIFAR-100 (T = 4); mdistiller's ImageNet runs use T = 1"
    disagreements = (
        "In TTM's script `--distill kd -b` distils nothing, because KD uses the weight -a there; ABKD's copy"
        " of that script does apply it.",
        "ABKD's CLIP code divides by rows times classes instead of rows, so its weights are those of kdbench"
        " times the number of classes.",
    )

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        check_positive("KD", temperature=temperature)
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `kd_loss` of the logits: a scalar in nats."""
        return kd_loss(student.logits, teacher.logits, self.temperature)
