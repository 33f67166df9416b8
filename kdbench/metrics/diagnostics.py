"""The instruments of `kdbench analyze` that are means over rows, as scores of every evaluation (`diagnostics=true`)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from kdbench.metrics.conditional_mutual_information import ConditionalMutualInformation
from kdbench.metrics.entropy import predictive_kl, renyi_entropy, shannon_entropy, ttm_identity

GAMMA = 0.25
"""The order of Renyi's entropy, and 1 / T of the power transform: T = 4, as the CIFAR recipes have it."""

OF_ONE = ("brier", "shannon_entropy", "renyi_entropy")
OF_PAIR = ("predictive_kl", "transformed_kl", "distillation", "student_entropy", "teacher_entropy")


class Diagnostics(nn.Module):
    """brier (0 to 2), shannon_entropy, renyi_entropy and conditional_mutual_information (of the split's own answers and
    class means) of a network; with a teacher's p beside its q predictive_kl (D(p || q)), transformed_kl (D(p_T || q))
    and the three terms that the latter is the sum of, as `kdbench.metrics.entropy.ttm_identity` has them. All but the
    first in nats."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.means = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in (*OF_ONE, *OF_PAIR)})
        self.cmi = ConditionalMutualInformation(num_classes)

    def update(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> None:
        """logits [N, C], target [N], teacher: the teacher's logits [N, C] for the same rows."""
        wrong = F.softmax(logits, dim=-1) - F.one_hot(target, logits.shape[-1])
        rows = {
            "brier": wrong.square().sum(dim=-1),
            "shannon_entropy": shannon_entropy(logits),
            "renyi_entropy": renyi_entropy(logits, GAMMA),
        }
        for name, values in rows.items():
            self._mean(name).update(values)
        self.cmi.update(logits, target)
        if teacher is None:
            return
        pair = {"predictive_kl": predictive_kl(teacher, logits), **ttm_identity(teacher, logits, GAMMA)}
        for name in OF_PAIR:
            # a value for each row: torchmetrics leaves out weights where it does not look for NaN
            self._mean(name).update(logits.new_full((len(logits),), pair[name]))

    def compute(self) -> dict[str, float]:
        """What was seen so far, under DDP by all ranks, and start again."""
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
