"""The weights that a run starts from: those of its teacher and those of its own network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kdbench.config.build import build
from kdbench.data.base import check_compatible
from kdbench.models.checkpoints import load_weights
from kdbench.runs.plan import Plan
from kdbench.teachers.live import LiveTeacher
from kdbench.teachers.names import network_of
from kdbench.teachers.store import locate
from kdbench.utils.seeding import seed_scope


def teacher_files(plan: Plan) -> dict[str, Path]:
    """Find the files with the weights of a run's teacher.

    Returns:
        A file for each member of the teacher (one, except for an ensemble); empty without a teacher.

    Raises:
        ValueError: A file is missing. The message has the command that trains it.
    """
    teacher, space = plan.cfg.teacher, plan.data.label_space
    if plan.trains_teacher or teacher.name == "none":
        return {}
    members = [plan.names["teacher"]]
    checkpoints = {plan.names["teacher"]: teacher.get("checkpoint")}
    if "members" in teacher:
        members, checkpoints = teacher.members, teacher.checkpoints or {}
    files = {}
    for name in members:
        plan.task.check_model(plan.data, network_of(name))
        command = partial(plan.training_command, name)
        files[name] = locate(name, space, checkpoints.get(name), command)
    return files


def load_teacher(plan: Plan, files: Mapping[str, Path]) -> LiveTeacher | None:
    """Load the teacher of a run.

    Args:
        plan: The run; its data are set up.
        files: The result of `teacher_files`.

    Returns:
        The teacher, or None if there are no files.

    Raises:
        ValueError: A file does not fit the network or the data.
    """
    if not files:
        return None
    paths = {name: str(file) for name, file in files.items()}
    arguments: dict[str, Any] = {
        "num_classes": plan.data.num_classes,
        "bf16": plan.cfg.precision != "fp32",
        "network": partial(plan.task.build_model, plan.data),
    }
    if "members" in plan.cfg.teacher:
        arguments["checkpoints"] = paths
    else:
        (arguments["checkpoint"],) = paths.values()
    teacher: LiveTeacher = build(plan.cfg.teacher, **arguments)
    _check_data(plan, teacher.about, files.values())
    return teacher


def init_file(plan: Plan) -> Path | None:
    """Find the weights that the training of a teacher starts from (`teacher.init`); None for random weights."""
    init = plan.cfg.teacher.get("init")
    if init is None:
        return None
    name = plan.network["name"]
    return locate(name, plan.data.label_space, init, lambda: plan.training_command(name), "teacher.init")


def starts_pretrained(plan: Plan) -> bool:
    """Whether the network starts from the weights of a folder or of the Hugging Face hub (`options.pretrained`)."""
    return bool((plan.network.get("options") or {}).get("pretrained"))


def build_network(plan: Plan, init: Path | None) -> nn.Module:
    """Build the network to be trained, with its initial weights.

    Args:
        plan: The run; its data are set up and its seed decides random weights.
        init: The result of `init_file`.
    """
    node = plan.network
    with seed_scope(plan.cfg.seed, "init"):
        model = plan.task.build_model(plan.data, node["name"], node.get("options"))
    if init is not None:
        _check_data(plan, load_weights(model, init), [init])
    return model.train()  # transformers returns pretrained networks in eval mode


def _check_data(plan: Plan, about: Mapping[str, Any], files: Iterable[Path]) -> None:
    check_compatible(plan.data, about, " and ".join(map(str, files)))
