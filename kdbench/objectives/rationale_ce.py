"""Cross-entropy of rationales, Distilling Step-by-Step (Hsieh et al. 2023, arXiv:2305.02301, section 3.2)."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import IGNORED, Batch, Outputs


def rationale_ce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of a rationale's tokens, averaged over the valid tokens of the batch.

    Args:
        logits: Logits [B, T, V].
        labels: Token labels, int64 [B, T], -100 where there is no token.

    Returns:
        A scalar in nats; 0 if the batch has no token.
    """
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


class RationaleCE(Objective):
    """Cross-entropy of the teacher's rationale, which the student generates when it is asked to explain."""

    paper = Paper("Distilling Step-by-Step!", 2023, "2305.02301")
    formula = "-mean over the rationale's tokens t of ln q(t | explain: input, tokens before)"
    needs = ("texts",)
    tasks = ("rationale",)
    views = ("explain",)
    needs_teacher = False
    disagreements = (
        "The code averages over the tokens of the batch, not of each sample, so a label of 3 tokens and a "
        "rationale of 60 are equal halves of the loss; kdbench does the same.",
        "A rationale that could not be parsed is an empty text in the code, and the student learns to output"
        " nothing. kdbench does the same, and the log of the data set states how many there are.",
    )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the cross-entropy of the rationales: a scalar in nats."""
        return rationale_ce_loss(student.parts["explain"].logits, batch.texts["explain"].labels)
