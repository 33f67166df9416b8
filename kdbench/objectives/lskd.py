"""LSKD (Sun et al. 2024, arXiv:2403.01427): KD of z-scored logits."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import standardise
from kdbench.utils.validation import check_positive


def lskd_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Return T^2 * KL(p_T || q_T) of z-scored logits, averaged over rows.

    Args:
        student: Student logits [N, C], C >= 2.
        teacher: Teacher logits [N, C].
        temperature: T, which divides the z-scored logits of both sides; 2 in the authors' script.

    Returns:
        A scalar in nats.
    """
    log_q = F.log_softmax(standardise(student) / temperature, dim=-1)
    log_p = F.log_softmax(standardise(teacher) / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class LSKD(Objective):
    """`lskd_loss` as an objective, with the same parameter.

    Raises:
        ValueError: If `temperature` is not positive and finite.
    """

    paper = Paper("Logit Standardization in Knowledge Distillation", 2024, "2403.01427")
    formula = "T^2 KL(p_T || q_T) of z-scored logits, (z - mean z) / (1e-7 + std z)"
    defaults_from = "the authors' training script (base temperature 2)"
    disagreements = (
        "The authors' results for some pairs, such as vgg13 -> vgg8 and resnet110 -> resnet20, use other "
        "temperatures and weights than the defaults of their script; the recipe has the values per pair.",
    )

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        check_positive("LSKD", temperature=temperature)
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `lskd_loss` of the logits: a scalar in nats."""
        return lskd_loss(student.logits, teacher.logits, self.temperature)
