"""What a run will be, built as far as it costs nothing: the place where mistakes are found before any work."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
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
    check_settings,
    check_task,
    check_teacher,
    check_top_k,
    check_trainer,
    check_views,
    why_not_stored,
)
from kdbench.tasks import Task, TeacherTraining, task_of
from kdbench.teachers.names import TIMM, known_as, network_of, trained_by
from kdbench.teachers.store import shipped, stored
from kdbench.training.schedule import Schedule
from kdbench.utils.hashing import digest


@dataclass(frozen=True)
class Plan:
    """The parts of a run that cost nothing to build: they are made to find mistakes before any work."""

    cfg: DictConfig
    names: dict[str, str]
    data: TaskData
    loss: Loss
    schedule: Schedule
    is_stage: bool = False
    """Whether this is the first stage of another run."""

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data."""
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
        return "student" not in self.cfg

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher has a part in the weights, in the main phase or in a first stage."""
        return self.loss.needs_teacher or (self.loss.stage is not None and self.loss.stage.loss.needs_teacher)

    @property
    def storable(self) -> bool:
        """Whether all that the loss wants of the teacher can be stored: its logits for views of images that can be
        counted, or its likeliest words of the training texts."""
        return why_not_stored(self) is None

    @property
    def ranks(self) -> int:
        """How many processes train it together."""
        return world_of(self.cfg.trainer)

    @property
    def network(self) -> dict[str, Any]:
        """The configuration of the network to be trained: its `name` and `options`."""
        node: dict[str, Any] = self.config["teacher" if self.trains_teacher else "student"]
        return node

    def training_command(self, teacher: str) -> str:
        """Return the command that makes a teacher for this run: a network of timm's has weights, others are trained."""
        if teacher.startswith(TIMM):
            words = self._teacher_training.dataset
            model = f"model=timm model.name={teacher} checkpoint=hub store={teacher} ..."
            return " ".join(["kdbench evaluate", *words, model])
        return f"kdbench train-teacher {shlex.join(self.teacher_overrides(teacher))}"

    def teacher_overrides(self, teacher: str) -> list[str]:
        """Return the overrides with which `kdbench train-teacher` trains a teacher for this run."""
        training, space, plain = self._teacher_training, self.data.label_space, network_of(teacher)
        from_package = not stored(space, plain).is_file() and shipped(space, plain).is_file()
        init = "shipped" if from_package else "store"
        return [*training.dataset, *trained_by(teacher, init, training.schedule, training.options)]

    @property
    def _teacher_training(self) -> TeacherTraining:
        return self.task.teacher_training(self.data, self.config, self.names["dataset"])

    @property
    def title(self) -> str:
        """The run in one word for people: what the folder's name begins with."""
        parts = (
            self.names["dataset"],
            self.names["teacher"],
            self.names.get("student"),
            self.names.get("loss"),
        )
        return "-".join(part.replace("/", "_") for part in parts if part) + f"-s{self.cfg.seed}"


def data_of(cfg: DictConfig) -> TaskData:
    """The data of a run; nothing is loaded before `setup`."""
    data: TaskData = build(cfg.dataset, seed=cfg.seed, batch_size=cfg.schedule.batch_size)
    data.diagnostics = cfg.diagnostics
    return data


def make_plan(cfg: DictConfig, choices: dict[str, str]) -> Plan:
    """Build what is cheap; every ValueError here is the user's to mend."""
    check_settings(cfg)
    for side in ("teacher", "student"):
        if side in cfg and "name" not in cfg[side]:
            raise ValueError(f"{side} has no name: it is what others are made from; see kdbench --help")
    for key in ("log_every", "evaluate_every"):
        if cfg[key] < 1:
            raise ValueError(f"{key} must be at least 1, got {cfg[key]}")
    schedule: Schedule = build(cfg.schedule)
    check_trainer(cfg.trainer, schedule)
    data = data_of(cfg)
    loss: Loss = build(cfg.loss if "loss" in cfg else cfg.teacher_loss)
    if loss.dot is not None:
        schedule.check_dot(loss.dot)
    names = {group: choices.get(group, "") for group in ("dataset", "loss")}
    if data.uses_own_name:
        names["dataset"] = data.name
    names["teacher"] = _teacher_name(cfg, loss)
    names |= {"student": cfg.student.name} if "student" in cfg else {}
    plan = Plan(cfg, names, data, loss, schedule)
    check_task(data, loss)
    check_views(data, loss)
    check_capabilities(plan)
    if plan.needs_teacher and ("loss" not in cfg or cfg.teacher.name == "none"):
        terms = loss.terms or (loss.stage.loss.terms if loss.stage else ["a policy"])
        raise ValueError(f"the loss has {', '.join(terms)}: that needs a teacher, and there is none")
    check_teacher(plan)
    check_top_k(plan)
    if cfg.cuda_graph:
        check_graph(plan)
    plan.task.check_model(data, plan.network["name"])
    required = cfg.teacher.get("cache") == "require" and loss.needs_teacher
    if required and (reason := why_not_stored(plan)):
        raise ValueError(f"teacher.cache=require, but {reason}; give teacher.cache=auto")
    return plan


def _teacher_name(cfg: DictConfig, loss: Loss) -> str:
    """As the store, records and tables know it; a teacher in training is named after the objectives of its loss."""
    node = OmegaConf.to_container(cfg.teacher)
    assert isinstance(node, dict)
    teacher = {str(key): value for key, value in node.items()}
    if "student" not in cfg and not teacher.get("variant"):
        teacher["variant"] = "-".join(f"{name}-{loss.weights[name]:.12g}" for name in loss.terms)
    return known_as(teacher)


def first_stage(plan: Plan) -> Plan:
    """The run that the loss's first stage is: its loss, for its epochs, at a constant learning rate.

    An unfinished one is continued, a finished one reused, whatever the main run was told of itself.
    """
    stage = plan.loss.stage
    assert stage is not None
    cfg = plan.cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.loss = cfg.loss.stage.loss
    cfg.schedule.update(epochs=stage.epochs, plan="constant", milestones=[], milestones_for=None)
    cfg.schedule.update(decay=1.0, warmup=0.0)  # mean nothing here, and must not make it another run
    if stage.lr is not None:
        cfg.schedule.lr = stage.lr
    cfg.trainer.max_epochs = stage.epochs
    cfg.update(resume=True, overwrite=False, evaluate_every=stage.epochs)
    names = {**plan.names, "loss": f"{plan.names['loss'] or 'loss'}.stage"}
    if not stage.loss.needs_student:
        names.pop("student", None)
    return Plan(cfg, names, plan.data, stage.loss, build(cfg.schedule), is_stage=True)


def recipe_hash(plan: Plan) -> str:
    """What of the configuration and of the objectives' versions changes weights, as a hash."""
    versions = {name: term.version for name, term in plan.loss.terms.items()}
    if plan.loss.stage is not None:
        versions["stage"] = {name: term.version for name, term in plan.loss.stage.loss.terms.items()}  # type: ignore[assignment]
    recipe = recipe_of(plan.config)
    if not plan.loss.needs_student:
        recipe.pop("student", None)
    if (
        plan.cfg.precision != "fp32"
    ):  # teachers of images round in other places than they did (models/folding.py)
        recipe["folded"] = True
    return digest(recipe | {"objective_versions": versions})
