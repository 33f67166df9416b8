"""Measurements of `kdbench analyze` as scores of every evaluation (`diagnostics=true`)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kdbench.metrics.conditional_mutual_information import ConditionalMutualInformation
from kdbench.metrics.entropy import predictive_kl, renyi_entropy, shannon_entropy, ttm_identity

GAMMA = 0.25
"""Order of the Renyi entropy and exponent 1 / T of the power transform; T = 4 as in the CIFAR recipes."""

NETWORK_SCORES = ("brier", "shannon_entropy", "renyi_entropy")
TEACHER_SCORES = ("predictive_kl", "transformed_kl", "distillation", "student_entropy", "teacher_entropy")


class Diagnostics(nn.Module):
    """Uncertainty of a network q, and its divergence from a teacher p.

    * `brier`: Brier score, 0 to 2.
    * `shannon_entropy`, `renyi_entropy`, `conditional_mutual_information` (with the class means of the split), in
      nats.
    * With a teacher, in nats: `predictive_kl`, D(p || q); `transformed_kl`, D(p_T || q); and its three terms
      `distillation`, `student_entropy` and `teacher_entropy` (`kdbench.metrics.entropy.ttm_identity`).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.means = nn.ModuleDict(
            {name: MeanMetric(nan_strategy="disable") for name in (*NETWORK_SCORES, *TEACHER_SCORES)}
        )
        self.cmi = ConditionalMutualInformation(num_classes)

    def update(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
        """Add rows: logits [N, C], target int64 [N], the teacher's logits [N, C] or None."""
        error = F.softmax(logits, dim=-1) - F.one_hot(target, logits.shape[-1])
        rows = {
            "brier": error.square().sum(dim=-1),
            "shannon_entropy": shannon_entropy(logits),
            "renyi_entropy": renyi_entropy(logits, GAMMA),
        }
        for name, values in rows.items():
            self._mean(name).update(values)
        self.cmi.update(logits, target)
        if teacher is None:
            return
        pair = {"predictive_kl": predictive_kl(teacher, logits), **ttm_identity(teacher, logits, GAMMA)}
        for name in TEACHER_SCORES:
            # one value per row, because torchmetrics ignores weights with nan_strategy="disable"
            self._mean(name).update(logits.new_full((len(logits),), pair[name]))

    def compute(self) -> dict[str, float]:
        """Return the scores by name and reset; under DDP they cover all ranks."""
        means = {name: self._mean(name) for name in self.means}
        scores = {name: round(float(mean.compute()), 6) for name, mean in means.items() if mean.update_count}
        if self.cmi.update_count:
            scores["conditional_mutual_information"] = round(float(self.cmi.compute()), 6)
        for metric in (*means.values(), self.cmi):
            metric.reset()
        return scores

    def _mean(self, name: str) -> MeanMetric:
        mean = self.means[name]
        assert isinstance(mean, MeanMetric)
        return mean
