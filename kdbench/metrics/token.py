"""Scores of a language model's next-token predictions on held-out text."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kdbench.core.types import Batch
from kdbench.metrics.base import Metric


class TokenScores(Metric):
    """Means over all tokens of a split, independent of sequences and chunks.

    * `nll`: negative log-likelihood per token, in nats; `perplexity`: its exponential.
    * `token_accuracy`: top-1 accuracy per token, in per cent.
    * `agreement`: share of tokens whose top-1 prediction equals the teacher's, in per cent, if there is a teacher.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nll, self.correct = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.agreement = MeanMetric(nan_strategy="disable")

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Add the logits [N, V] of the batch's rows, and the teacher's."""
        predicted = logits.argmax(dim=-1)
        self.nll.update(F.cross_entropy(logits, batch.target, reduction="none"))
        self.correct.update((predicted == batch.target).float())
        if teacher is not None:
            self.agreement.update((predicted == teacher.argmax(dim=-1)).float())

    def compute(self) -> dict[str, float]:
        """Return the scores by name and reset."""
        nll = float(self.nll.compute())
        scores = {"token_accuracy": 100 * float(self.correct.compute()), "nll": nll}
        scores["perplexity"] = math.exp(nll) if nll < 700 else math.inf
        if self.agreement.update_called:
            scores["agreement"] = 100 * float(self.agreement.compute())
        for metric in (self.nll, self.correct, self.agreement):
            metric.reset()
        return scores
