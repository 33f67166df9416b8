"""Plan runs: everything that can be built and checked without loading data or weights."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kdbench.config.build import build
from kdbench.data.base import TaskData
from kdbench.distributed.devices import world_of
from kdbench.losses.composite import Loss
from kdbench.runs.identity import recipe_of
from kdbench.runs.validation import (
    check_capabilities,
    check_graph,
    check_run_settings,
    check_task,
    check_teacher,
    check_top_k,
    check_trainer,
    check_views,
    trains_teacher,
    why_not_stored,
)
from kdbench.tasks import Task, TeacherTraining, task_of
from kdbench.teachers.names import TIMM, display_name, network_of, training_overrides
from kdbench.teachers.store import shipped, stored
from kdbench.training.schedule import Schedule
from kdbench.utils.hashing import digest


@dataclass(frozen=True)
class Plan:
    """One planned run.

    Attributes:
        cfg: The checked configuration.
        names: The options chosen in the groups `dataset`, `teacher`, `student` and `loss`.
        data: The data; not set up.
        loss: The loss.
        schedule: The schedule.
        is_stage: Whether this is the first stage of another run.
    """

    cfg: DictConfig
    names: dict[str, str]
    data: TaskData
    loss: Loss
    schedule: Schedule
    is_stage: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data, not to be changed."""
        config = OmegaConf.to_container(self.cfg)
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}

    @property
    def task(self) -> Task[Any]:
        """The task of the data."""
        return task_of(self.data)

    @property
    def trains_teacher(self) -> bool:
        """Whether the network goes into the teacher store."""
        return trains_teacher(self.cfg)

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher influences the weights, in the main phase or in a first stage."""
        return self.loss.needs_teacher or (self.loss.stage is not None and self.loss.stage.loss.needs_teacher)

    @property
    def storable(self) -> bool:
        """Whether the teacher's answers in this run can be read from a cache."""
        return self.why_not_stored is None

    @property
    def why_not_stored(self) -> str | None:
        """The reason why the teacher's answers in this run cannot be stored, or None."""
        return why_not_stored(self.data, self.loss, self.cfg.teacher.get("top_k"))

    @property
    def ranks(self) -> int:
        """The number of processes that train the run together."""
        return world_of(self.cfg.trainer)

    @property
    def network(self) -> dict[str, Any]:
        """The configuration of the network to be trained, with its `name` and `options`."""
        node: dict[str, Any] = self.config["teacher" if self.trains_teacher else "student"]
        return node

    def training_command(self, teacher: str) -> str:
        """Return the command that makes a teacher for this run.

        It stores the published weights of a network from timm, and trains any other network.
        """
        if teacher.startswith(TIMM):
            words = self._teacher_training.dataset
            model = f"model=timm model.name={teacher} checkpoint=hub store={teacher} ..."
            return " ".join(["kdbench evaluate", *words, model])
        return f"kdbench train-teacher {shlex.join(self.teacher_overrides(teacher))}"

    def teacher_overrides(self, teacher: str) -> list[str]:
        """Return the overrides for `kdbench train-teacher` to train a teacher for this run."""
        training, space, plain = self._teacher_training, self.data.label_space, network_of(teacher)
        from_package = not stored(space, plain).is_file() and shipped(space, plain).is_file()
        init = "shipped" if from_package else "store"
        return [*training.dataset, *training_overrides(teacher, init, training.schedule, training.options)]

    @property
    def _teacher_training(self) -> TeacherTraining:
        return self.task.teacher_training(self.data, self.config, self.names["dataset"])

    @property
    def title(self) -> str:
        """A readable name of the run, with which the name of its folder begins."""
        parts = (
            self.names["dataset"],
            self.names["teacher"],
            self.names.get("student"),
            self.names.get("loss"),
        )
        return "-".join(part.replace("/", "_") for part in parts if part) + f"-s{self.cfg.seed}"

    @cached_property
    def recipe_hash(self) -> str:
        """A hash of everything in the configuration, and of the objectives' versions, that changes the weights."""
        versions: dict[str, Any] = {name: term.version for name, term in self.loss.terms.items()}
        if (stage := self.loss.stage) is not None:
            versions["stage"] = {name: term.version for name, term in stage.loss.terms.items()}
        recipe = recipe_of(self.config)
        if not self.loss.needs_student:
            recipe.pop("student", None)
        if self.cfg.precision != "fp32":  # BatchNorm folding changed the rounding (models/bn_folding.py)
            recipe["folded"] = True
        return digest(recipe | {"objective_versions": versions})

    @property
    def key(self) -> tuple[str, str]:
        """The title and the recipe hash: together different for all runs of a cohort."""
        return self.title, self.recipe_hash


def data_of(cfg: DictConfig) -> TaskData:
    """Build the data of a run; nothing is loaded before `setup`."""
    data: TaskData = build(cfg.dataset, seed=cfg.seed, batch_size=cfg.schedule.batch_size)
    data.diagnostics = cfg.diagnostics
    return data


def make_plan(cfg: DictConfig, choices: Mapping[str, str]) -> Plan:
    """Plan a run, and check everything that can be checked without loading data or weights.

    Args:
        cfg: The composed and checked configuration.
        choices: The option that was chosen in each config group.

    Raises:
        ValueError: A setting has a value that is not possible, or settings exclude each other. The message says what
            is possible.
    """
    check_run_settings(cfg)
    schedule: Schedule = build(cfg.schedule)
    check_trainer(cfg.trainer, schedule)
    data = data_of(cfg)
    loss: Loss = build(cfg.loss if "loss" in cfg else cfg.teacher_loss)
    if loss.dot is not None:
        schedule.check_dot(loss.dot)
    plan = Plan(cfg, _names(cfg, choices, data, loss), data, loss, schedule)
    check_task(data, loss)
    check_views(data, loss)
    check_capabilities(cfg, data, plan.ranks)
    if plan.needs_teacher and ("loss" not in cfg or cfg.teacher.name == "none"):
        terms = loss.terms or (loss.stage.loss.terms if loss.stage else ["a policy"])
        raise ValueError(f"the loss has {', '.join(terms)}: that needs a teacher, and there is none")
    check_teacher(cfg, loss)
    check_top_k(cfg, data, loss)
    if cfg.cuda_graph:
        check_graph(cfg, data, loss, schedule, plan.ranks)
    plan.task.check_model(data, plan.network["name"])
    required = cfg.teacher.get("cache") == "require" and loss.needs_teacher
    if required and (reason := plan.why_not_stored):
        raise ValueError(f"teacher.cache=require, but {reason}; give teacher.cache=auto")
    return plan


def _names(cfg: DictConfig, choices: Mapping[str, str], data: TaskData, loss: Loss) -> dict[str, str]:
    names = {group: choices.get(group, "") for group in ("dataset", "loss")}
    if data.uses_own_name:
        names["dataset"] = data.name
    names["teacher"] = _teacher_name(cfg, loss)
    return names | ({"student": cfg.student.name} if "student" in cfg else {})


def _teacher_name(cfg: DictConfig, loss: Loss) -> str:
    """Return the teacher's name in the store, records and tables.

    A teacher in training without a variant is named after the objectives of its loss.
    """
    node = OmegaConf.to_container(cfg.teacher)
    assert isinstance(node, dict)
    teacher = {str(key): value for key, value in node.items()}
    if trains_teacher(cfg) and not teacher.get("variant"):
        teacher["variant"] = "-".join(f"{name}-{loss.weights[name]:.12g}" for name in loss.terms)
    return display_name(teacher)


def first_stage(plan: Plan) -> Plan:
    """Plan the first stage of a run: the loss of the stage, for its epochs, at a constant learning rate.

    An unfinished stage is continued and a finished one reused, whatever `resume` and `overwrite` say of the main run.
    """
    stage = plan.loss.stage
    assert stage is not None
    cfg = plan.cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.loss = cfg.loss.stage.loss
    cfg.schedule.update(epochs=stage.epochs, plan="constant", milestones=[], milestones_for=None)
    cfg.schedule.update(decay=1.0, warmup=0.0)  # have no effect here, so they must not change the identity
    if stage.lr is not None:
        cfg.schedule.lr = stage.lr
    cfg.trainer.max_epochs = stage.epochs
    cfg.update(resume=True, overwrite=False, evaluate_every=stage.epochs)
    names = {**plan.names, "loss": f"{plan.names['loss'] or 'loss'}.stage"}
    if not stage.loss.needs_student:
        names.pop("student", None)
    return Plan(cfg, names, plan.data, stage.loss, build(cfg.schedule), is_stage=True)
