"""The part of a run that is Lightning's: a trainer around the students of a cohort."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from kdbench.config import build
from kdbench.core import RunError
from kdbench.loggers import close
from kdbench.member import Member
from kdbench.plan import Plan
from kdbench.processes import OneNetwork, of_trainer
from kdbench.progress import ProgressLine, StopOnSignal
from kdbench.ranks import rank
from kdbench.student import Student, StudentModule
from kdbench.teacher import LiveTeacher
from kdbench.teacher.module import TeacherModule


def fit(
    members: Sequence[Member], teacher: LiveTeacher | None, watchers: Sequence[Callback] = ()
) -> dict[str, float]:
    """Train what is left to train; the teacher's own scores on test, where it was asked.

    A member that fails alone has an `error` afterwards; what ends all of them is raised. `watchers` are Lightning
    callbacks that look on.
    """
    planned = members[0].planned
    cfg, data, epochs = planned.cfg, planned.data, planned.cfg.trainer.max_epochs
    working = {
        member.student: member
        for member in members
        if member.student is not None and member.student.progress.epoch <= epochs
    }
    if not working:
        return {}
    module = _module(planned, working, teacher)
    data.position, data.steps_per_chunk = module.position, cfg.log_every
    line = [ProgressLine(_title(planned, len(working)), epochs)] if cfg.progress else []
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its notes on devices and products
    with ExitStack() as at_the_end, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for student, member in working.items():
            student.logger = _logger(member)
            at_the_end.callback(close, student.logger)
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
    return module.teacher_scores


def _module(planned: Plan, working: Mapping[Student, Member], teacher: LiveTeacher | None) -> StudentModule:
    cfg, students = planned.cfg, list(working)

    def fail(student: Student, error: Exception) -> None:
        working[student].fail(error)

    settings: dict[str, Any] = {
        "bf16": cfg.precision == "bf16",
        "evaluate_every": cfg.evaluate_every,
        "save_every": cfg.save_every,
        "on_failure": fail,
    }
    if planned.trains_teacher:
        return TeacherModule(students[0], planned.data, cfg.seed, **settings)
    return StudentModule(students, teacher, planned.data, cfg.seed, **settings)


def _title(planned: Plan, students: int) -> str:
    if students == 1:
        return planned.title
    return f"{planned.names['dataset']}-{planned.names['teacher']}-s{planned.cfg.seed}, {students} students,"


def _logger(member: Member) -> Any:
    if rank():
        return None
    planned = member.planned
    cfg, names = planned.cfg, planned.names
    alone = "a first stage" if planned.is_stage else "itself"
    pair = f"{names['teacher']} -> {names.get('student', alone)}"
    return build(
        cfg.logger,
        folder=member.folder.path,
        name=member.name,
        default_group=f"{cfg.table_name}: {pair}" if cfg.table_name else pair,
        tags=[*cfg.tags, *filter(None, names.values()), f"seed {cfg.seed}"],
        run_config=planned.config,
    )
