"""Read finished runs: the record, and the student as it answers at test time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from kdbench.config.build import build
from kdbench.core.types import Outputs
from kdbench.data.base import TaskData, check_compatible
from kdbench.losses.composite import Loss
from kdbench.models.checkpoints import load_weights
from kdbench.models.features import answer
from kdbench.tasks import task_of
from kdbench.teachers.live import LiveTeacher
from kdbench.training.run_folder import RunFolder
from kdbench.training.student import Student

STUDENT = "student.safetensors"


class NetworkWithHead(nn.Module):
    """A network whose classifier is replaced by an objective at test time (`Objective.predict`, e.g. SimKD)."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def answer(self, inputs: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """Return logits [N, C] of the head, and features of the network.

        Args:
            inputs: Images [N, 3, H, W].
            features: Names of features.
        """
        outputs = answer(self.network, inputs, tuple(dict.fromkeys((*self.loss.student_features, *features))))
        with torch.autocast(inputs.device.type, enabled=False):  # as in the evaluation of a run
            return replace(outputs, raw_logits=self.loss.predict(outputs), classifier=None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the head's logits [N, C] of images [N, 3, H, W]."""
        return self.answer(inputs).logits


def finished_record(folder: Path) -> dict[str, Any]:
    """Return the record of a finished run.

    Raises:
        ValueError: There is no such folder, no run in it, or the run is unfinished.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    record = RunFolder(folder).record()
    if record is None:
        raise ValueError(f"{folder} is not a run folder: it has no record.json")
    if record["state"] != "done":
        reason = f" ({record['reason']})" if record.get("reason") else ""
        raise ValueError(
            f"{folder} is unfinished: {record['state']}{reason}; its command with resume=true continues it"
        )
    if not (folder / STUDENT).is_file():
        raise ValueError(f"{folder} holds no {STUDENT}: a first stage, or the file was deleted")
    return record


def load_student(network: nn.Module, file: Path, data: TaskData) -> tuple[nn.Module, dict[str, Any]]:
    """Load a checkpoint of a student.

    Args:
        network: A network of the student's architecture.
        file: The checkpoint. If an objective replaces the classifier, its weights and the record lie beside it.
        data: The data, set up.

    Returns:
        The network, or a `NetworkWithHead`, and the metadata in the file.

    Raises:
        ValueError: The checkpoint does not fit the network, or was trained on other classes or tokens.
    """
    about = load_weights(network, file, own_head=False)
    check_compatible(data, about, str(file))
    if "predictor" not in about:
        return network, about
    return NetworkWithHead(network, _head(network, file, data)), about


def _head(network: nn.Module, file: Path, data: TaskData) -> Loss:
    """Build the loss of the run beside a checkpoint with only the objective that predicts, and load its weights."""
    head, record = file.with_name(f"{file.stem}.predictor.safetensors"), RunFolder(file.parent).record()
    if record is None or not head.is_file():
        raise ValueError(
            f"{file} is a student whose classifier is replaced by an objective: {head.name} and the run's record.json "
            f"must lie beside it"
        )
    config = record["config"]
    whole: Loss = build(OmegaConf.create(config["loss"]))
    (name,) = (name for name, term in whole.terms.items() if term is whole.predictor)
    loss = Loss({name: 1.0}, {name: whole.terms[name]})
    schedule = build(OmegaConf.create(config["schedule"]))
    student = Student(network, loss, schedule, task_of(data))
    student.setup(_any_teacher(config["teacher"], data), data.probe_batch(), data.dataset_info, seed=0)
    load_weights(whole.terms[name], head, own_head=False)
    return loss


def _any_teacher(teacher: Mapping[str, Any], data: TaskData) -> LiveTeacher:
    """Return a network of the teacher's architecture with random weights: `setup` reads shapes only."""
    network = task_of(data).build_model(data, teacher["name"], teacher.get("options"))
    return LiveTeacher(teacher["name"], network, (), {})
