"""The part of a run that is Lightning's: a trainer around the students of a cohort."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from kdbench.config.build import build
from kdbench.core.errors import RunError
from kdbench.distributed.collectives import rank
from kdbench.distributed.launch import OneNetwork, of_trainer
from kdbench.runs.plan import Plan
from kdbench.runs.record import Member
from kdbench.teachers.live import LiveTeacher
from kdbench.training.callbacks import ProgressLine, StopOnSignal
from kdbench.training.cuda_graph import CudaGraph
from kdbench.training.loggers import Conclusion, RunLogger, close
from kdbench.training.module import StudentModule
from kdbench.training.student import Student
from kdbench.training.teacher_module import TeacherModule


def fit(
    members: Sequence[Member], teacher: LiveTeacher | None, watchers: Sequence[Callback] = ()
) -> dict[str, float]:
    """Train what is left to train; the teacher's own scores on test, where it was asked.

    A member that fails alone has an `error` afterwards; what ends all of them is raised. `watchers` are Lightning
    callbacks that look on.
    """
    plan = members[0].plan
    cfg, data, epochs = plan.cfg, plan.data, plan.cfg.trainer.max_epochs
    working = {
        member.student: member
        for member in members
        if member.student is not None and member.student.progress.epoch <= epochs
    }
    if not working:
        return {}
    module = _module(plan, working, teacher)
    data.position, data.steps_per_chunk = module.position, cfg.log_every
    line = [ProgressLine(_title(plan, len(working)), epochs)] if cfg.progress else []
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its notes on devices and products
    with ExitStack() as at_the_end, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        at_the_end.callback(lambda: close(student.logger for student in working))
        for student, member in working.items():
            student.logger = _logger(member)
        trainer: lightning.Trainer = build(
            cfg.trainer,
            max_epochs=epochs - module.position[0] + 1,
            logger=False,  # every student has its own
            callbacks=[StopOnSignal(), OneNetwork(), *line, *watchers],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            **of_trainer(cfg.trainer),
        )
        try:
            trainer.fit(module, datamodule=data)
        except (RunError, ValueError):
            if any(member.error is None for member in working.values()):
                raise
        for member in working.values():
            _conclude(member, module)
    return module.teacher_scores


def _module(plan: Plan, working: Mapping[Student, Member], teacher: LiveTeacher | None) -> StudentModule:
    cfg, students = plan.cfg, list(working)

    def fail(student: Student, error: Exception) -> None:
        working[student].fail(error)

    settings: dict[str, Any] = {
        "bf16": cfg.precision == "bf16",
        "evaluate_every": cfg.evaluate_every,
        "save_every": cfg.save_every,
        "on_failure": fail,
        "graph": CudaGraph if cfg.cuda_graph else None,
        "score_finally": not plan.is_stage,
    }
    if plan.trains_teacher:
        return TeacherModule(students[0], plan.data, cfg.seed, **settings)
    return StudentModule(students, teacher, plan.data, cfg.seed, **settings)


def _title(plan: Plan, students: int) -> str:
    if students == 1:
        return plan.title
    return f"{plan.names['dataset']}-{plan.names['teacher']}-s{plan.cfg.seed}, {students} students,"


def _logger(member: Member) -> RunLogger | None:
    if rank():
        return None
    plan = member.plan
    cfg, names = plan.cfg, plan.names
    alone = "a first stage" if plan.is_stage else "itself"
    pair = f"{names['teacher']} -> {names.get('student', alone)}"
    group = ", ".join(filter(None, (pair, names.get("loss"))))
    about = {"table": cfg.table_name, "pair": pair, "loss_name": names.get("loss")}
    logger: RunLogger | None = build(
        cfg.logger,
        folder=member.folder.path,
        name=member.name,
        default_group=f"{cfg.table_name}: {group}" if cfg.table_name else group,
        seed=cfg.seed,
        tags=[*cfg.tags, *filter(None, names.values()), f"seed {cfg.seed}"],
        run_config={**plan.config, **about, "hashes": member.hashes},
    )
    return logger


def _conclude(member: Member, module: StudentModule) -> None:
    """Tell the logger of a run that was trained to its end what it came to."""
    student = member.student
    if student is None or student.logger is None or member.error is not None:
        return
    results, progress = student.results(), student.progress
    summary: dict[str, Any] = {"seconds": progress.seconds, "parameters": student.parameter_counts["at_test"]}
    for name, scores in {**results, "teacher": module.teacher_scores}.items():
        if isinstance(scores, Mapping):
            summary |= {f"{name}/{key}": value for key, value in scores.items()}
    data = member.plan.data
    names = data.label_info.get("classes", ())
    recall = {
        name: share
        for name, share in zip(names, results.get("recall", ()), strict=False)
        if share is not None
    }
    confusion = module.scoring.metric(student, "test").confusion if names else None
    counts = None if confusion is None else confusion.tolist()
    student.logger.conclude(Conclusion(summary, recall, names, counts))
