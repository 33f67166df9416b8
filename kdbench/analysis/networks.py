"""The networks of an analysis: the subject, and the reference that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from kdbench.config.build import build
from kdbench.core.types import Batch, Outputs
from kdbench.data.images.image_data import ImageData
from kdbench.losses.composite import CROSS_ENTROPY, Loss
from kdbench.models.checkpoints import weights_hash
from kdbench.models.features import answer, feature_names
from kdbench.runs.checkpoint import STUDENT, NetworkWithHead, finished_record, load_student
from kdbench.runs.plan import Plan
from kdbench.runs.weights import load_teacher, teacher_files
from kdbench.training.run_folder import RunFolder
from kdbench.training.schedule import Schedule


@dataclass(frozen=True)
class Side:
    """A network under analysis, in eval mode.

    Attributes:
        role: `student`, `teacher`, `model` (a checkpoint that belongs to no run) or `against`.
        name: Name of the network.
        files: Files of its weights.
        hash: Hash of its weights.
        module: The network.
        answer: Runs the network on a batch and returns the requested features with the logits.
        features: Names of the features that `answer` can return.
    """

    role: str
    name: str
    files: Sequence[Path]
    hash: str
    module: nn.Module
    answer: Callable[[Batch, tuple[str, ...]], Outputs]
    features: tuple[str, ...]

    @property
    def title(self) -> str:
        """Role and name, for tables and plots."""
        return f"{self.role} {self.name}"

    def answer_images(self, inputs: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """Run the network on images [N, 3, H, W] without labels."""
        nothing = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        return self.answer(Batch(inputs, nothing, nothing), features)


@dataclass(frozen=True)
class Source:
    """A checkpoint, and the record of its run if it belongs to one."""

    file: Path
    record: dict[str, Any] | None

    @property
    def network(self) -> dict[str, Any] | None:
        """The configuration of the run's network; None without a run."""
        if self.record is None:
            return None
        config = self.record["config"]
        trained = config["student"] if "student" in config else config["teacher"]
        node = {"_target_": "kdbench.models.registry.create_model", "name": trained["name"]}
        return node | ({"options": trained["options"]} if trained.get("options") else {})

    @property
    def is_student(self) -> bool:
        """Whether the checkpoint is the student of a run."""
        return self.record is not None and "student" in self.record["config"]


def source(path: Path) -> Source:
    """Find the checkpoint at a path: a finished run's folder, a file in one, or a separate file.

    Raises:
        ValueError: There is none, or the run is not finished.
    """
    if path.is_dir():
        return Source(path / STUDENT, finished_record(path))
    if not path.is_file():
        raise ValueError(f"there is no run folder and no checkpoint at {path}")
    record = RunFolder(path.parent).record()
    return Source(path, None if record is None else finished_record(path.parent))


def subject_side(role: str, node: DictConfig, file: Path, data: ImageData) -> Side:
    """Create the network of a configuration with the weights of a file."""
    network = build(node, num_classes=data.num_classes)
    module, about = load_student(network, file, data)
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def answer_batch(batch: Batch, features: tuple[str, ...]) -> Outputs:
        if isinstance(module, NetworkWithHead):
            return module.answer(batch.inputs, features)
        return answer(module, batch.inputs, features)

    name = str(about.get("teacher", node.name))  # the stored name of a teacher includes its variant
    return Side(role, name, (file,), weights_hash(module), module, answer_batch, feature_names(network))


def teacher_side(cfg: DictConfig, names: dict[str, str], data: ImageData) -> Side | None:
    """Load the teacher of a configuration as a run does; None for teacher=none.

    Raises:
        ValueError: The teacher is missing or does not fit.
    """
    node = OmegaConf.create(
        {"dataset": cfg.dataset, "teacher": cfg.teacher, "student": {}, "precision": "fp32"}
    )
    assert isinstance(node, DictConfig)
    plan = Plan(node, names, data, Loss({CROSS_ENTROPY: 1.0}), Schedule(1, 1, 1.0, plan="constant"))
    try:
        teacher = load_teacher(plan, teacher_files(plan))
    except ValueError as error:
        raise ValueError(f"{error}\nteacher=none omits the teacher") from error
    if teacher is None:
        return None
    features = feature_names(getattr(teacher, "model", teacher))
    return Side("teacher", teacher.name, teacher.sources, teacher.hash, teacher, teacher, features)


def other_side(path: Path, node: DictConfig, data: ImageData) -> Side:
    """Load the checkpoint of `against`, with the network of its run or else of the subject."""
    other = source(path)
    own = OmegaConf.create(other.network) if other.network else node
    assert isinstance(own, DictConfig)
    return subject_side("against", own, other.file, data)
