"""MSE (Kim et al. 2021, arXiv:2105.08919): mean squared error of the logits."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs


def mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference of the logits, averaged over rows and classes.

    The paper writes the sum over classes: its weight for C classes is the weight here divided by C.

    Args:
        student: Student logits [N, C].
        teacher: Teacher logits [N, C].

    Returns:
        A scalar in squared logits.
    """
    return F.mse_loss(student, teacher)


class MSE(Objective):
    """`mse_loss` as an objective."""

    paper = Paper(
        "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation",
        2021,
        "2105.08919",
    )
    formula = "mean over rows and classes of (z_s - z_t)^2"
    disagreements = (
        "The paper writes the squared distance, or half of it, without dividing by the number of classes. "
        "Here it is the mean, as in F.mse_loss, so the paper's weight has to be multiplied by the number of "
        "classes (and halved).",
    )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `mse_loss` of the logits: a scalar in squared logits."""
        return mse_loss(student.logits, teacher.logits)
