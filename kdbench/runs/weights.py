"""Where the weights of a run come from: those of its teacher, and those that its own network starts from."""

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
    """The files with the weights of the run's teacher, by the names of its members (one for most); none without a
    teacher. ValueError with the command that trains what is missing."""
    teacher, space = plan.cfg.teacher, plan.data.label_space
    if plan.trains_teacher or teacher.name == "none":
        return {}
    members, given = [plan.names["teacher"]], {plan.names["teacher"]: teacher.get("checkpoint")}
    if "members" in teacher:
        members, given = teacher.members, teacher.checkpoints or {}
    files = {}
    for name in members:
        plan.task.check_model(plan.data, network_of(name))
        files[name] = locate(name, space, given.get(name), plan.training_command(name))
    return files


def init_file(plan: Plan) -> Path | None:
    """Where the weights are that a teacher's training starts from; None for random ones."""
    init = plan.cfg.teacher.get("init")
    if init is None:
        return None
    name = plan.network["name"]
    return locate(name, plan.data.label_space, init, plan.training_command(name), "teacher.init")


def is_pretrained(plan: Plan) -> bool:
    """Whether the student starts from weights of a folder or of the hub: where they lie says nothing, they do."""
    return bool((plan.network.get("options") or {}).get("pretrained"))


def load_teacher(plan: Plan, files: dict[str, Path]) -> LiveTeacher | None:
    """The teacher of a run, from the files that `teacher_files` found; ValueError where one does not fit."""
    if not files:
        return None
    paths = {name: str(file) for name, file in files.items()}
    supplied: dict[str, Any] = {
        "num_classes": plan.data.num_classes,
        "bf16": plan.cfg.precision != "fp32",
        "network": partial(plan.task.build_model, plan.data),
    }
    if "members" in plan.cfg.teacher:
        supplied["checkpoints"] = paths
    else:
        (supplied["checkpoint"],) = paths.values()
    teacher: LiveTeacher = build(plan.cfg.teacher, **supplied)
    _check_classes(plan, teacher.about, files.values())
    return teacher


def _check_classes(plan: Plan, about: Mapping[str, Any], files: Iterable[Path]) -> None:
    check_compatible(plan.data, about, " and ".join(map(str, files)))


def network(plan: Plan, init: Path | None) -> nn.Module:
    """The network to be trained, as it is at the start: random, drawn for this seed, or with the weights in `init`."""
    node = plan.network
    with seed_scope(plan.cfg.seed, "init"):
        model = plan.task.build_model(plan.data, node["name"], node.get("options"))
    if init is not None:
        _check_classes(plan, load_weights(model, init), [init])
    return model.train()  # transformers gives pretrained ones in eval mode, without dropout
