"""Which networks are looked at: the subject, and the reference that it is compared with."""

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
from kdbench.runs.checkpoint import STUDENT, Headed, finished, load_student
from kdbench.runs.plan import Plan
from kdbench.runs.weights import load_teacher, teacher_files
from kdbench.training.run_folder import RunFolder
from kdbench.training.schedule import Schedule


@dataclass(frozen=True)
class Side:
    """A network under analysis, in eval mode.

    role: `student`, `teacher`, `model` (a checkpoint of no run) or `against`. files: where its weights came from.
    """

    role: str
    name: str
    files: Sequence[Path]
    hash: str
    module: nn.Module
    answer: Callable[[Batch, tuple[str, ...]], Outputs]
    features: tuple[str, ...]
    """What `answer` may be asked for."""

    @property
    def title(self) -> str:
        """For tables and pictures."""
        return f"{self.role} {self.name}"

    def answer_images(self, inputs: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """The answer to images [N, 3, H, W] alone."""
        nothing = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        return self.answer(Batch(inputs, nothing, nothing), features)


@dataclass(frozen=True)
class Source:
    """A checkpoint, and the record of the run that left it where there is one."""

    file: Path
    record: dict[str, Any] | None

    @property
    def network(self) -> dict[str, Any] | None:
        """The configuration of the run's network."""
        if self.record is None:
            return None
        config = self.record["config"]
        trained = config["student"] if "student" in config else config["teacher"]
        node = {"_target_": "kdbench.models.registry.create_model", "name": trained["name"]}
        return node | ({"options": trained["options"]} if trained.get("options") else {})

    @property
    def is_student(self) -> bool:
        """Whether it was trained as a student, and not as a teacher or elsewhere."""
        return self.record is not None and "student" in self.record["config"]


def source(path: Path) -> Source:
    """What lies at `path`: a finished run's folder, a file in one, or a checkpoint of its own; else ValueError."""
    if path.is_dir():
        return Source(path / STUDENT, finished(path))
    if not path.is_file():
        raise ValueError(f"there is no run folder and no checkpoint at {path}")
    beside = RunFolder(path.parent).record()
    return Source(path, None if beside is None else finished(path.parent))


def subject_side(role: str, node: DictConfig, file: Path, data: ImageData) -> Side:
    """The network of a configuration with the weights of a file."""
    network = build(node, num_classes=data.num_classes)
    module, about = load_student(network, file, data)
    module = module.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def answered(batch: Batch, features: tuple[str, ...]) -> Outputs:
        if isinstance(module, Headed):
            return module.answer(batch.inputs, features)
        return answer(module, batch.inputs, features)

    name = str(about.get("teacher", node.name))  # a teacher is known with its variant
    return Side(role, name, (file,), weights_hash(module), module, answered, feature_names(network))


def teacher_side(cfg: DictConfig, names: dict[str, str], data: ImageData) -> Side | None:
    """The teacher of a configuration with `dataset` and `teacher`, found as a run finds it; None for teacher=none."""
    node = OmegaConf.create(
        {"dataset": cfg.dataset, "teacher": cfg.teacher, "student": {}, "precision": "fp32"}
    )
    assert isinstance(node, DictConfig)
    plan = Plan(node, names, data, Loss({CROSS_ENTROPY: 1.0}), Schedule(1, 1, 1.0, plan="constant"))
    try:
        teacher = load_teacher(plan, teacher_files(plan))
    except ValueError as error:
        raise ValueError(f"{error}\nteacher=none leaves it out") from error
    if teacher is None:
        return None
    features = feature_names(getattr(teacher, "model", teacher))
    return Side("teacher", teacher.name, teacher.sources, teacher.hash, teacher, teacher, features)


def other_side(path: Path, node: DictConfig, data: ImageData) -> Side:
    """The checkpoint named by `against`: of its run's network, else of the subject's."""
    found = source(path)
    own = OmegaConf.create(found.network) if found.network else node
    assert isinstance(own, DictConfig)
    return subject_side("against", own, found.file, data)
