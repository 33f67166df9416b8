"""Hsieh et al. 2023, arXiv:2305.02301, section 3.2: "Distilling Step-by-Step! Outperforming Larger Language Models with
Less Training Data and Smaller Model Sizes"."""

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import IGNORED, Batch, Outputs


def rationale_ce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a rationale's tokens, averaged over the valid ones of the batch.

    logits: [B, T, V]; labels: int64 [B, T], -100 where there is no token. Returns a scalar in nats, 0 where the batch
    has no token at all.
    """
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


class RationaleCE(Objective):
    """The cross-entropy of the teacher's rationale, which the student writes when it is asked to explain."""

    paper = Paper("Distilling Step-by-Step!", 2023, "2305.02301")
    formula = "-mean over the rationale's tokens t of ln q(t | explain: input, tokens before)"
    needs = ("texts",)
    tasks = ("rationale",)
    views = ("explain",)
    needs_teacher = False
    disagreements = (
        "the code means over the tokens of the batch, not of each sample, so that a label of 3 tokens and a rationale "
        "of 60 weigh alike as halves of the loss; so does this",
        "a rationale that could not be parsed is an empty text in the code, and the student learns to say nothing; so "
        "here, and the log of the data set says how many there are",
    )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The cross-entropy of the rationales, in nats."""
        return rationale_ce_loss(student.parts["explain"].logits, batch.texts["explain"].labels)
