"""The task: each label of each image is a row with two classes, absent and present."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kdbench.metrics.base import Metric
from kdbench.models.names import check_name
from kdbench.models.registry import create_model
from kdbench.tasks import Task
from multilabel.data import LABELS, MultiLabelImages
from multilabel.metric import LabelScores


class RowsOfLabels(nn.Module):
    """An image classifier whose 2 L outputs [N, 2 L] become rows [N L, 2]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N L, 2] of images [N, 3, H, W]."""
        logits: Tensor = self.network(images)
        return logits.view(-1, 2)


class MultiLabelClassification(Task[MultiLabelImages]):
    """Several labels for each image; the main score is the F1 of present labels."""

    name = "multilabel"
    metric = "f1"
    title = "F1"
    rows = "labels of images"

    def check_model(self, data: MultiLabelImages, name: str) -> None:
        """The possible names are those of image classifiers."""
        check_name(name)

    def build_model(
        self, data: MultiLabelImages, name: str, options: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Build an image classifier with two outputs for each label."""
        return RowsOfLabels(create_model(name, 2 * LABELS, options=options))

    def build_metric(self, data: MultiLabelImages, split: str) -> Metric:
        """Return F1 and cross-entropy."""
        return LabelScores()
