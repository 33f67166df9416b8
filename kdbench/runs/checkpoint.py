"""What a run left, read back: its record, and its student as it answers at test time."""

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


class Headed(nn.Module):
    """A network that answers with an objective's `predict`: the head that replaces its classifier at test time."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def answer(self, inputs: Tensor, features: tuple[str, ...] = ()) -> Outputs:
        """Logits [N, C] of the head; features are the network's own."""
        own = answer(self.network, inputs, tuple(dict.fromkeys((*self.loss.student_features, *features))))
        with torch.autocast(inputs.device.type, enabled=False):  # as where a run evaluates
            return replace(own, raw_logits=self.loss.predict(own), classifier=None)

    def forward(self, inputs: Tensor) -> Tensor:
        """The head's logits [N, C] of images [N, 3, H, W]."""
        return self.answer(inputs).logits


def finished(folder: Path) -> dict[str, Any]:
    """The record of a finished run. ValueError where there is no such folder, no run in it, or an unfinished one."""
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    record = RunFolder(folder).record()
    if record is None:
        raise ValueError(f"{folder} is not a run folder: it has no record.json")
    if record["state"] != "done":
        reason = f" ({record['reason']})" if record.get("reason") else ""
        raise ValueError(
            f"{folder} is unfinished: {record['state']}{reason}; the command that began it ends it with resume=true"
        )
    if not (folder / STUDENT).is_file():
        raise ValueError(f"{folder} holds no {STUDENT}: a first stage, or the file was deleted")
    return record


def load_student(network: nn.Module, file: Path, data: TaskData) -> tuple[nn.Module, dict[str, Any]]:
    """The network with the weights of a checkpoint, and what the file says of them; a `Headed` one where the student
    in it answers with the head of an objective, which is read from beside the file.

    data: set up; where it has class names (a tokenizer) and the file says others, that is a ValueError, too.
    """
    about = load_weights(network, file, own_head=False)
    check_compatible(data, about, str(file))
    if "predictor" not in about:
        return network, about
    return Headed(network, _head(network, file, data)), about


def _head(network: nn.Module, file: Path, data: TaskData) -> Loss:
    """The loss of the run beside `file` without all that does not answer, its head as it was stored."""
    head, record = file.with_name(f"{file.stem}.predictor.safetensors"), RunFolder(file.parent).record()
    if record is None or not head.is_file():
        raise ValueError(
            f"{file} is a student that answers with a head of its own: {head.name} and the run's record.json "
            f"must lie beside it"
        )
    config = record["config"]
    whole: Loss = build(OmegaConf.create(config["loss"]))
    (name,) = (name for name, term in whole.terms.items() if term is whole.predictor)
    loss = Loss({name: 1.0}, {name: whole.terms[name]})
    schedule = build(OmegaConf.create(config["schedule"]))
    student = Student(network, loss, schedule, task_of(data))
    student.setup(_shape_of(config["teacher"], data), data.probe_batch(), data.dataset_info, seed=0)
    load_weights(whole.terms[name], head, own_head=False)
    return loss


def _shape_of(teacher: Mapping[str, Any], data: TaskData) -> LiveTeacher:
    """A network such as the run's teacher, with any weights: `setup` asks it for shapes, and the file has the rest."""
    network = task_of(data).build_model(data, teacher["name"], teacher.get("options"))
    return LiveTeacher(teacher["name"], network, (), {})
