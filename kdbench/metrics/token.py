"""What is said of a language model's answers to held-out text."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kdbench.core.types import Batch
from kdbench.metrics.base import Metric


class TokenScores(Metric):
    """Means over all tokens of a split, whatever sequences and chunks they come in.

    nll: nats per token; perplexity: its exponential; token_accuracy: of the likeliest word, in per cent; agreement: of
    the likeliest word with the teacher's, in per cent, where there is a teacher.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nll, self.correct = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.agreement = MeanMetric(nan_strategy="disable")

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Logits [N, V] of the batch's rows, and the teacher's."""
        said = logits.argmax(dim=-1)
        self.nll.update(F.cross_entropy(logits, batch.target, reduction="none"))
        self.correct.update((said == batch.target).float())
        if teacher is not None:
            self.agreement.update((said == teacher.argmax(dim=-1)).float())

    def compute(self) -> dict[str, float]:
        """The scores so far, and start again."""
        nll = float(self.nll.compute())
        scores = {"token_accuracy": 100 * float(self.correct.compute()), "nll": nll}
        scores["perplexity"] = math.exp(nll) if nll < 700 else math.inf
        if self.agreement.update_called:
            scores["agreement"] = 100 * float(self.agreement.compute())
        for metric in (self.nll, self.correct, self.agreement):
            metric.reset()
        return scores
