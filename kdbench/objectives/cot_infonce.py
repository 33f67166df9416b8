"""van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748, eq. 4,
between the two tasks of a student that predicts and explains: an alternative to the term of arXiv:2403.03348."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs


def cot_infonce_loss(predict: Tensor, explain: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE in both directions between two representations [N, D] of the same samples; the others of the batch are
    the negatives. Returns a scalar in nats: ln N minus it bounds their mutual information from below."""
    one, other = F.normalize(predict, dim=-1), F.normalize(explain, dim=-1)
    similarity = one @ other.T / temperature
    same = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, same) + F.cross_entropy(similarity.T, same)) / 2


class CotInfoNCE(Objective):
    """InfoNCE between what the decoder holds of a sample's label and of its rationale."""

    paper = Paper("Representation Learning with Contrastive Predictive Coding", 2018, "1807.03748")
    formula = "InfoNCE of the mean decoder states of label and rationale, cosine similarity, both directions"
    needs = ("texts", "pooled")
    tasks = ("rationale",)
    views = ("predict", "explain")
    student_features = ("pooled",)
    needs_teacher = False
    couples_rows = True
    depends_on_batch_size = True
    defaults_from = "kdbench: 0.1 as is usual for normalised vectors; no paper has this term for rationales"

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The term of the two answers, in nats."""
        predict, explain = (student.parts[view].features["pooled"] for view in self.views)
        return cot_infonce_loss(predict, explain, self.temperature)
