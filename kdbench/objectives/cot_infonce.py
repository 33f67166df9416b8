"""InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, eq. 4) between predictions and explanations.

An alternative to the mutual-information term of Chen et al. 2024 (arXiv:2403.03348, `cot_mi`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.utils.validation import check_positive


def cot_infonce_loss(predict: Tensor, explain: Tensor, temperature: float = 0.1) -> Tensor:
    """Return InfoNCE in both directions, averaged; the other samples of the batch are the negatives.

    ln N minus this value is a lower bound of the mutual information of the two representations.

    Args:
        predict: Representations [N, D] of the labels.
        explain: Representations [N, D] of the rationales of the same samples.
        temperature: Divides the cosine similarities; 0.1 as is usual for normalised vectors.

    Returns:
        A scalar in nats.
    """
    labels, rationales = F.normalize(predict, dim=-1), F.normalize(explain, dim=-1)
    similarity = labels @ rationales.T / temperature
    positives = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, positives) + F.cross_entropy(similarity.T, positives)) / 2


class CotInfoNCE(Objective):
    """`cot_infonce_loss` of the mean decoder states of a sample's label and of its rationale.

    Args:
        temperature: Divides the cosine similarities.

    Raises:
        ValueError: If `temperature` is not positive and finite.
    """

    paper = Paper("Representation Learning with Contrastive Predictive Coding", 2018, "1807.03748")
    formula = "InfoNCE of the mean decoder states of label and rationale, cosine similarity, both directions"
    needs = ("texts", "pooled")
    tasks = ("rationale",)
    views = ("predict", "explain")
    student_features = ("pooled",)
    needs_teacher = False
    couples_rows = True
    depends_on_batch_size = True
    defaults_from = (
        "kdbench: 0.1 as is usual for normalised vectors; no paper applies this term to rationales"
    )

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        check_positive("CotInfoNCE", temperature=temperature)
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `cot_infonce_loss` of the two views: a scalar in nats."""
        predict, explain = (student.parts[view].features["pooled"] for view in self.views)
        return cot_infonce_loss(predict, explain, self.temperature)
