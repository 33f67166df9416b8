"""The metric: F1 over all labels of all images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core import Batch
from kdbench.metrics.base import Metric


class LabelScores(Metric):
    """`f1` of present labels and `agreement` with the teacher, in per cent; `nll` per label, in nats."""

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(6, dtype=torch.float64))

    def update(self, model: nn.Module, batch: Batch, logits: Tensor, teacher: Tensor | None = None) -> None:
        """Count the rows of a batch: logits [N, 2], the teacher's of the same shape."""
        predicted, present = logits.argmax(dim=-1) == 1, batch.target == 1
        agreed = torch.zeros(()) if teacher is None else (predicted == (teacher.argmax(dim=-1) == 1)).sum()
        values = (
            (predicted & present).sum(),
            predicted.sum() + present.sum(),
            F.cross_entropy(logits, batch.target, reduction="sum"),
            torch.tensor(len(present)),
            agreed,
            torch.tensor(0.0 if teacher is None else len(present)),
        )
        self.counts += torch.stack([value.to(self.counts) for value in values])

    def compute(self) -> dict[str, float]:
        """Return the scores so far, and start again."""
        hits, marked, nll, rows, agreed, compared = self.counts.tolist()
        self.counts.zero_()
        scores = {"f1": 100 * 2 * hits / max(marked, 1), "nll": nll / rows}
        return scores | ({"agreement": 100 * agreed / compared} if compared else {})
