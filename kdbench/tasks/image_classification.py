"""Image classification: one class for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from kdbench.tasks.base import Capability, Task, TeacherTraining

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdbench.data.images.image_data import ImageData
    from kdbench.metrics.base import Metric

_SCHEDULE = "cifar240"
"""The schedule of teachers for data sets that conf/companions.yaml does not list."""

_SOURCE_KEYS = ("path", "name", "config_name", "image_column", "label_column", "size", "classes")
"""Of a data set without a configuration file of its label space: the keys that say which images it has."""


class ImageClassification(Task["ImageData"]):
    """One class for each image; the main score is top-1 accuracy."""

    name = "images"
    metric = "top1"
    title = "top-1"
    answer_cache = "logits"
    unsupported: ClassVar[Mapping[Capability, str]] = {
        key: Task.unsupported[key] for key in (Capability.TOP_K_TEACHERS, Capability.POLICIES)
    }

    def why_not(self, capability: Capability, data: ImageData | None = None) -> str | None:
        """Images that are read from files when they are needed can be neither counted nor drawn by class."""
        if data is not None and not data.has_finite_views and capability in _OF_STREAMED_DATA:
            return self._fill_in(_OF_STREAMED_DATA[capability], data)
        return super().why_not(capability, data)

    def check_model(self, data: ImageData, name: str) -> None:
        """Check that a network is one of `kdbench list models` or `timm/NAME`."""
        from kdbench.models.names import check_name

        check_name(name)

    def build_model(self, data: ImageData, name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
        """Build an image classifier for the classes of the data."""
        from kdbench.models.registry import create_model

        return create_model(name, data.num_classes, options=options)

    def load_pretrained(
        self, data: ImageData, name: str, options: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Load a network of timm's with its ImageNet weights."""
        from kdbench.models.registry import create_pretrained

        return create_pretrained(name, data.num_classes)

    def build_metric(self, data: ImageData, split: str) -> Metric:
        """Return accuracy, calibration and cross-entropy; with `diagnostics=true` also measures of certainty."""
        from kdbench.metrics.classification import ClassificationScores
        from kdbench.metrics.diagnostics import Diagnostics

        diagnostics = Diagnostics(data.num_classes) if data.diagnostics else None
        return ClassificationScores(data.num_classes, data.groups, diagnostics)

    def build_training_metric(self, data: ImageData, centroids: Tensor | None = None) -> Metric:
        """Return cross-entropy and conditional mutual information."""
        from kdbench.metrics.conditional_mutual_information import ClassSpread

        return ClassSpread(data.num_classes, centroids)

    def teacher_training(self, data: ImageData, config: Mapping[str, Any], dataset: str) -> TeacherTraining:
        """Return the training on all classes of the label space, also if the student is trained on a subset."""
        from kdbench.config.build import companions
        from kdbench.utils.paths import CONF_DIR

        space, given = data.label_space, config["dataset"]
        if (CONF_DIR / "dataset" / f"{space}.yaml").is_file():
            words = [f"dataset={space}"]
            if dataset in ("", space) and (path := given.get("path")):
                words.append(f"dataset.path={path}")
        else:
            words = [f"dataset={dataset}"]
            words += [
                f"dataset.{key}={value}" for key, value in given.items() if key in _SOURCE_KEYS and value
            ]
        return TeacherTraining(tuple(words), schedule=companions(space).get("schedule", _SCHEDULE))


_OF_STREAMED_DATA = {
    Capability.STORED_ANSWERS: "the views of {data} cannot be counted",
    Capability.CUDA_GRAPHS: "{data} is read from files and not kept in the memory of the device",
    Capability.EXTRA_VIEWS: "{data} is read from files and has neither further views nor images drawn by class",
}
