"""What a plan's parts cannot have together: ValueErrors that name what is possible, before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig

from kdbench.config.build import PRECISIONS
from kdbench.data.base import TaskData
from kdbench.distributed.devices import check_devices
from kdbench.losses.composite import Loss
from kdbench.tasks import Capability, task_of, tasks_for
from kdbench.teachers.cache.kinds import CACHES
from kdbench.teachers.ensemble import check_ensemble
from kdbench.training.cuda_graph import hindrance
from kdbench.training.schedule import Schedule

if TYPE_CHECKING:
    from kdbench.runs.plan import Plan

_TRAINER_KEYS = ("_target_", "accelerator", "devices", "max_epochs", "profiler", "detect_anomaly")
_DDP_KEYS = ("strategy", "num_nodes", "sync_batchnorm")


def check_settings(cfg: DictConfig) -> None:
    """The values of the keys that every command has; ValueError names the possible ones."""
    if cfg.precision not in PRECISIONS:
        raise ValueError(f"precision={cfg.precision}; possible: {', '.join(PRECISIONS)}")
    if cfg.threads is not None and cfg.threads < 1:
        raise ValueError(f"threads must be at least 1, got {cfg.threads}")


def check_trainer(trainer: DictConfig, schedule: Schedule) -> None:
    """What else Lightning's trainer could do would change weights behind the recipe's back."""
    if stray := [str(key) for key in trainer if key not in (*_TRAINER_KEYS, *_DDP_KEYS)]:
        raise ValueError(
            f"trainer.{stray[0]} is not for a run of kdbench; possible: {', '.join(_TRAINER_KEYS[1:])}"
        )
    if trainer.accelerator not in ("auto", "cpu", "gpu"):
        raise ValueError(f"trainer.accelerator={trainer.accelerator}; possible: auto, cpu, gpu")
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator=gpu, and torch finds no CUDA device here; give trainer=cpu")
    check_devices(trainer)
    epochs = trainer.max_epochs
    if not isinstance(epochs, int) or not 1 <= epochs <= schedule.epochs:
        raise ValueError(f"trainer.max_epochs={epochs} must lie in 1 to schedule.epochs={schedule.epochs}")


def check_task(data: TaskData, loss: Loss) -> None:
    """Every term must be made for what the rows of the data set are."""
    task = task_of(data)
    for name, term in loss.terms.items():
        if not task.accepts(term):
            raise ValueError(
                f"the task of {data.name} is {task.name}, and {name} is for {' and '.join(tasks_for(term))}; "
                f"`kdbench list losses` says what each is for"
            )
    if loss.input is not None and loss.input not in task.inputs:
        possible = (
            f"possible: {', '.join(task.inputs)}" if task.inputs else "that is for text; give loss.input=null"
        )
        raise ValueError(f"loss.input={loss.input}, and the task of {data.name} is {task.name}; {possible}")
    if loss.policy is not None and (reason := task.why_not(Capability.POLICIES, data)):
        raise ValueError(f"loss.policy: {reason}; give loss.policy=null")
    if loss.stage is not None:
        check_task(data, loss.stage.loss)


def check_capabilities(plan: Plan) -> None:
    """Raise ValueError if a run wants several devices, or a teacher, and its task does not support that."""
    cfg, task, data = plan.cfg, plan.task, plan.data
    if plan.ranks > 1 and (reason := task.why_not(Capability.DDP, data)):
        raise ValueError(f"trainer=ddp: {reason}; give trainer=auto")
    has_teacher = "student" in cfg and cfg.teacher.name != "none"
    if has_teacher and (reason := task.why_not(Capability.TEACHERS, data)):
        raise ValueError(f"teacher={cfg.teacher.name}: {reason}; give teacher=none")


def check_views(data: TaskData, loss: Loss) -> None:
    """Images that are read from files as they are needed have one view of each, and none drawn by class."""
    reason = task_of(data).why_not(Capability.EXTRA_VIEWS, data)
    if reason is None:
        return
    for name, term in loss.terms.items():
        if term.views or term.needs_class_balanced_images:
            wanted = f"a further view ({', '.join(term.views)})" if term.views else "images drawn by class"
            raise ValueError(f"{name} looks at {wanted}, and {reason}")
    if loss.stage is not None:
        check_views(data, loss.stage.loss)


def check_teacher(plan: Plan) -> None:
    """What a teacher's section says must have a meaning here."""
    teacher = plan.cfg.teacher
    if plan.trains_teacher and "members" in teacher:
        raise ValueError(
            "kdbench train-teacher trains one network: teacher=NAME; an ensemble is made of trained ones"
        )
    if plan.trains_teacher and teacher.get("checkpoint"):
        raise ValueError(
            f"teacher.checkpoint={teacher.checkpoint}: a teacher in training has none yet; "
            f"teacher.init is where it starts"
        )
    if not plan.trains_teacher and teacher.get("init"):
        raise ValueError(
            f"teacher.init={teacher.init} is where kdbench train-teacher starts; a trained teacher is given by "
            f"teacher.checkpoint, or by its name and teacher.variant"
        )
    if "members" in teacher:
        check_ensemble(teacher.members, teacher.weights, teacher.checkpoints, plan.loss)


def why_not_stored(plan: Plan) -> str | None:
    """Why the teacher's answers in this run cannot be stored, or None."""
    data, loss = plan.data, plan.loss
    if not loss.needs_teacher:
        return "the loss does not look at a teacher"
    if reason := plan.task.why_not(Capability.STORED_ANSWERS, data):
        return reason
    return CACHES[plan.task.answer_cache].obstacle(loss, plan.cfg.teacher.get("top_k"))


def check_top_k(plan: Plan) -> None:
    """A teacher that is known by its likeliest words, of texts alone, and to losses that can be told from them."""
    top_k, loss = plan.cfg.teacher.get("top_k"), plan.loss
    if top_k is None:
        return
    stage = loss.stage.loss if loss.stage else None
    why = None
    if plan.trains_teacher:
        why = "a teacher in training has no teacher"
    elif reason := plan.task.why_not(Capability.TOP_K_TEACHERS, plan.data):
        why = reason
    elif loss.policy is not None and not loss.terms:
        why = "no term of this loss looks at the teacher"
    if why:
        raise ValueError(f"teacher.top_k={top_k}: {why}; give teacher.top_k=null")
    if top_k < 1:
        raise ValueError(f"teacher.top_k must be at least 1, got {top_k}")
    for one in filter(None, (loss, stage)):
        one.refuse_topk()


def check_graph(plan: Plan) -> None:
    """Steps can be recorded where they are nothing but work of one CUDA device."""
    data, stage = plan.data, plan.loss.stage
    reason = hindrance(plan.loss) or (hindrance(stage.loss) if stage else None)
    if missing := plan.task.why_not(Capability.CUDA_GRAPHS, data):
        reason = missing
    elif plan.ranks > 1:
        reason = f"this is a run of {plan.ranks} processes; several GPUs take several cohorts"
    elif plan.schedule.algorithm != "sgd":
        reason = f"schedule.algorithm={plan.schedule.algorithm} is not recorded, sgd is"
    elif plan.cfg.trainer.get("detect_anomaly"):
        reason = "trainer.detect_anomaly looks at numbers within a step"
    elif plan.cfg.dataset.get("omit") == "loop":
        reason = "dataset.omit=loop has a batch of another size in nearly every step"
    elif reason is None and (plan.cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available()):
        reason = "the run is on a CPU"
    if reason:
        raise ValueError(f"cuda_graph=true: {reason}; give cuda_graph=false")
