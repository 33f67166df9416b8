"""Check that the settings of a run are possible together, before any work.

Every check raises ValueError with a message that says what is possible.
"""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from kdbench.config.build import PRECISIONS
from kdbench.config.schema import TRAINER_OPTIONS
from kdbench.data.base import TaskData
from kdbench.distributed.devices import check_devices
from kdbench.losses.composite import Loss
from kdbench.tasks import Capability, task_of, tasks_for
from kdbench.teachers.cache.kinds import CACHES
from kdbench.teachers.ensemble import check_ensemble
from kdbench.training.cuda_graph import hindrance
from kdbench.training.schedule import Schedule


def trains_teacher(cfg: DictConfig) -> bool:
    """Whether a configuration is that of `kdbench train-teacher`."""
    return "student" not in cfg


def check_settings(cfg: DictConfig) -> None:
    """Check the settings that every command has."""
    if cfg.precision not in PRECISIONS:
        raise ValueError(f"precision={cfg.precision}; possible: {', '.join(PRECISIONS)}")
    if cfg.threads is not None and cfg.threads < 1:
        raise ValueError(f"threads must be at least 1, got {cfg.threads}")


def check_run_settings(cfg: DictConfig) -> None:
    """Check the settings of a run that concern no single group."""
    check_settings(cfg)
    for side in ("teacher", "student"):
        if side in cfg and "name" not in cfg[side]:
            raise ValueError(f"{side} has no name: it is what others are made from; see kdbench --help")
    for key in ("log_every", "evaluate_every"):
        if cfg[key] < 1:
            raise ValueError(f"{key} must be at least 1, got {cfg[key]}")


def check_trainer(trainer: DictConfig, schedule: Schedule) -> None:
    """Check the trainer: options of Lightning that would change the weights without changing the recipe are refused."""
    if stray := [str(key) for key in trainer if key not in ("_target_", *TRAINER_OPTIONS)]:
        raise ValueError(
            f"trainer.{stray[0]} is not for a run of kdbench; possible: {', '.join(TRAINER_OPTIONS)}"
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
    """Check that the loss serves the task of the data."""
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


def check_capabilities(cfg: DictConfig, data: TaskData, ranks: int) -> None:
    """Check that the task supports several devices and a teacher, where the run has them."""
    task = task_of(data)
    if ranks > 1 and (reason := task.why_not(Capability.DDP, data)):
        raise ValueError(f"trainer=ddp: {reason}; give trainer=auto")
    has_teacher = not trains_teacher(cfg) and cfg.teacher.name != "none"
    if has_teacher and (reason := task.why_not(Capability.TEACHERS, data)):
        raise ValueError(f"teacher={cfg.teacher.name}: {reason}; give teacher=none")


def check_views(data: TaskData, loss: Loss) -> None:
    """Check that the data have the further views and class-balanced batches that the loss needs."""
    reason = task_of(data).why_not(Capability.EXTRA_VIEWS, data)
    if reason is None:
        return
    for name, term in loss.terms.items():
        if term.views or term.needs_class_balanced_images:
            wanted = f"a further view ({', '.join(term.views)})" if term.views else "images drawn by class"
            raise ValueError(f"{name} looks at {wanted}, and {reason}")
    if loss.stage is not None:
        check_views(data, loss.stage.loss)


def check_teacher(cfg: DictConfig, loss: Loss) -> None:
    """Check that the options of the teacher are for this command."""
    teacher, in_training = cfg.teacher, trains_teacher(cfg)
    if in_training and "members" in teacher:
        raise ValueError(
            "kdbench train-teacher trains one network: teacher=NAME; an ensemble is made of trained ones"
        )
    if in_training and teacher.get("checkpoint"):
        raise ValueError(
            f"teacher.checkpoint={teacher.checkpoint}: a teacher in training has none yet; "
            f"teacher.init is where it starts"
        )
    if not in_training and teacher.get("init"):
        raise ValueError(
            f"teacher.init={teacher.init} is where kdbench train-teacher starts; a trained teacher is given by "
            f"teacher.checkpoint, or by its name and teacher.variant"
        )
    if "members" in teacher:
        check_ensemble(teacher.members, teacher.weights, teacher.checkpoints, loss)


def why_not_stored(data: TaskData, loss: Loss, top_k: int | None) -> str | None:
    """Return the reason why the teacher's answers in a run cannot be stored, or None."""
    if not loss.needs_teacher:
        return "the loss does not look at a teacher"
    task = task_of(data)
    if reason := task.why_not(Capability.STORED_ANSWERS, data):
        return reason
    return CACHES[task.answer_cache].obstacle(loss, top_k)


def check_top_k(cfg: DictConfig, data: TaskData, loss: Loss) -> None:
    """Check that the task and the loss can work with the teacher's top-k classes alone (`teacher.top_k`)."""
    top_k = cfg.teacher.get("top_k")
    if top_k is None:
        return
    problem = None
    if trains_teacher(cfg):
        problem = "a teacher in training has no teacher"
    elif reason := task_of(data).why_not(Capability.TOP_K_TEACHERS, data):
        problem = reason
    elif loss.policy is not None and not loss.terms:
        problem = "no term of this loss looks at the teacher"
    if problem:
        raise ValueError(f"teacher.top_k={top_k}: {problem}; give teacher.top_k=null")
    if top_k < 1:
        raise ValueError(f"teacher.top_k must be at least 1, got {top_k}")
    loss.refuse_topk()
    if loss.stage is not None:
        loss.stage.loss.refuse_topk()


def check_graph(cfg: DictConfig, data: TaskData, loss: Loss, schedule: Schedule, ranks: int) -> None:
    """Check that the steps of a run can be recorded as CUDA graphs (`cuda_graph=true`)."""
    reason = hindrance(loss) or (hindrance(loss.stage.loss) if loss.stage else None)
    if missing := task_of(data).why_not(Capability.CUDA_GRAPHS, data):
        reason = missing
    elif ranks > 1:
        reason = f"this is a run of {ranks} processes; several GPUs take several cohorts"
    elif schedule.algorithm != "sgd":
        reason = f"schedule.algorithm={schedule.algorithm} is not recorded, sgd is"
    elif cfg.trainer.get("detect_anomaly"):
        reason = "trainer.detect_anomaly looks at numbers within a step"
    elif cfg.dataset.get("omit") == "loop":
        reason = "dataset.omit=loop has a batch of another size in nearly every step"
    elif reason is None and (cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available()):
        reason = "the run is on a CPU"
    if reason:
        raise ValueError(f"cuda_graph=true: {reason}; give cuda_graph=false")
