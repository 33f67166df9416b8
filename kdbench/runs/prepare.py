"""Prepare runs for training: data, teacher, folder, student, and the checkpoint of an unfinished run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import OmegaConf

from kdbench.core.errors import RunError
from kdbench.data.base import TaskData
from kdbench.distributed.collectives import agreed, rank, world_size
from kdbench.models.checkpoints import load_weights
from kdbench.runs.identity import moved, places_of
from kdbench.runs.plan import Plan, first_stage
from kdbench.runs.resolve import AnswerSource, Resolution, resolve
from kdbench.runs.weights import build_network, init_file, load_teacher, teacher_files
from kdbench.teachers.live import LiveTeacher
from kdbench.teachers.store import check_free
from kdbench.training.run_folder import RunFolder
from kdbench.training.student import Student
from kdbench.training.student_run import StudentRun
from kdbench.training.teacher_module import store
from kdbench.utils.atomic_io import write_atomically
from kdbench.utils.hardware import emulates_bf16, free_cores
from kdbench.utils.precision import disable_tf32

_DEFAULT_THREADS = torch.get_num_threads()
"""The threads this process started with: a run of a sweep must not inherit those of the run before it."""


@dataclass(eq=False)
class PreparedRun:
    """One run between its plan and its record, alone or in a cohort.

    Attributes:
        plan: The plan.
        folder: The run folder, locked while the run is at work.
        hashes: The identity of the run.
        answers: The source of the teacher's answers in training, or None for the live teacher.
        stage: The finished first stage that the student starts from, or None.
        training: The student to train; None if there is nothing to train.
        earlier_record: The record of the unfinished run that this one continues, or None.
        earlier_threads: The number of threads of that run.
        record: The contents of record.json; empty until training starts.
        error: The error that ended this run and no other of its cohort, or None.
    """

    plan: Plan
    folder: RunFolder
    hashes: dict[str, str]
    answers: AnswerSource | None
    stage: PreparedRun | None = None
    training: StudentRun | None = None
    earlier_record: dict[str, Any] | None = None
    earlier_threads: int | None = None
    record: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.folder.path.name

    @property
    def trains(self) -> bool:
        """Whether the run has a student to train and no error."""
        return self.training is not None and self.error is None


@dataclass(frozen=True)
class PreparedCohort:
    """Runs that share batches and a teacher.

    Attributes:
        data: The data of all runs, set up.
        teacher: The live teacher, or None.
        runs: All runs, also those that are finished or failed.
    """

    data: TaskData
    teacher: LiveTeacher | None
    runs: list[PreparedRun]

    @property
    def trainable(self) -> list[PreparedRun]:
        """The runs that have something to train and have not failed."""
        return [run for run in self.runs if run.trains]


@contextmanager
def prepared(
    plans: Sequence[Plan], stages: Mapping[tuple[str, str], PreparedRun]
) -> Iterator[PreparedCohort]:
    """Prepare the runs of one cohort; their folders are locked until the context ends.

    A run that cannot be prepared gets an `error`, and the others go on.

    Args:
        plans: Plans that share one data object.
        stages: The first stages of the plans, by `Plan.key`, trained or failed.

    Raises:
        ValueError: The teacher or stored answers are missing or do not fit the data.
        RunError: The ranks of a run have different files.
    """
    first = plans[0]
    _set_up_process(first)
    files = teacher_files(first)
    for plan in plans:
        init_file(plan)  # reports a missing file before the data are loaded
    data = first.data
    data.setup("fit")
    data.to("cpu")  # where everything is built; a first stage leaves the images on its device
    teacher = load_teacher(first, files)
    runs = [_unprepared(plan, found) for plan, found in zip(plans, resolve(plans, teacher), strict=True)]
    try:
        # the same order in every process: processes that wait for each other's locks never wait in a circle
        for run in sorted(runs, key=lambda run: run.folder.path):
            try:
                _prepare(run, teacher, stages)
            except (RunError, ValueError) as error:
                run.error = error
        yield PreparedCohort(data, teacher, runs)
    finally:
        for run in runs:
            run.folder.close()


def _unprepared(plan: Plan, resolution: Resolution) -> PreparedRun:
    return PreparedRun(plan, resolution.folder, resolution.hashes, resolution.answers)


# ---- the process


def _set_up_process(plan: Plan) -> None:
    """Set threads and float32 precision, and warn about settings that make the run slow."""
    default = torch.get_num_threads() if world_size() > 1 else min(_DEFAULT_THREADS, free_cores())
    torch.set_num_threads(plan.cfg.threads or default)
    disable_tf32()
    precision, threads, cores = plan.cfg.precision, plan.cfg.threads, free_cores()
    if precision != "fp32" and emulates_bf16(plan.cfg.trainer.accelerator):
        _warn(
            f"precision={precision}: this CPU has no bf16 units, so bfloat16 is emulated, and slower than fp32"
        )
    if threads is not None and threads > cores and plan.ranks == 1:  # bfloat16 kernels spin while they wait
        _warn(f"threads={threads}, and this process may use {cores} core(s): it will be slower")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


# ---- one run


def _prepare(
    run: PreparedRun, teacher: LiveTeacher | None, stages: Mapping[tuple[str, str], PreparedRun]
) -> None:
    """Lock the folder and build the student, at its start or at the checkpoint of an unfinished run."""
    if run.plan.loss.stage is not None:
        run.stage = _finished_stage(stages[first_stage(run.plan).key])
    record, is_done = agreed(lambda: _open_folder(run))
    training = _build_student(run, teacher)
    if run.stage is not None:
        state = agreed(run.stage.folder.load_state)
        assert state is not None
        training.student.start_from(state)
    if record and is_done:
        _reuse(run, training, record)
        return
    if (state := agreed(lambda: _checkpoint(run))) is not None:
        run.earlier_record, run.earlier_threads = record, state["threads"]
        training.restore(state)
        progress = training.student.progress
        print(f"resuming {run.folder.path} at epoch {progress.epoch}, step {progress.step}")
    run.training = training


def _finished_stage(stage: PreparedRun) -> PreparedRun:
    if isinstance(stage.error, RunError):
        raise RunError(f"the first stage: {stage.error}; delete its folder to begin it anew") from stage.error
    if stage.error is not None:
        raise stage.error
    return stage


def _open_folder(run: PreparedRun) -> tuple[dict[str, Any] | None, bool]:
    """Lock the folder; return the record in it, and whether it is that of a finished run to be left alone.

    A first stage without its state, which was deleted to save space, is not finished.
    """
    plan, folder = run.plan, run.folder
    if plan.trains_teacher and not plan.cfg.overwrite:
        check_free(plan.data.label_space, plan.names["teacher"], run.hashes)
    folder.open(wait=plan.is_stage)
    record = folder.record()
    is_done = record is not None and record["state"] == "done" and not plan.cfg.overwrite
    return record, is_done and (not plan.is_stage or (folder.path / "state.pt").is_file())


def _build_student(run: PreparedRun, teacher: LiveTeacher | None) -> StudentRun:
    plan, data = run.plan, run.plan.data
    model = build_network(plan, init_file(plan))
    about = _about(plan) | ({"settings": model.settings} if getattr(model, "settings", "") else {})
    student = Student(model, plan.loss, plan.schedule, plan.task)
    student.answers = run.answers
    student.setup(teacher, data.probe_batch(), data.dataset_info, plan.cfg.seed)
    return StudentRun(student, run.folder, about)


def _about(plan: Plan) -> dict[str, Any]:
    """Return the metadata that is stored in the file of the weights."""
    data, names = plan.data, plan.names
    about = {"model": plan.network["name"], "data": data.name, **data.label_info, "protocol": data.protocol}
    if plan.loss.input is not None:
        about["input"] = plan.loss.input
    if plan.trains_teacher:
        return {**about, "teacher": names["teacher"]}
    source = f"of {names['teacher']}" if plan.needs_teacher else "on the labels"
    return {**about, "taught": f"{names['loss'] or 'a loss'} {source}", "seed": plan.cfg.seed}


# ---- finished and unfinished runs


def _reuse(run: PreparedRun, training: StudentRun, record: dict[str, Any]) -> None:
    """Take the record of a finished run, and store its network again if it is a teacher."""
    plan, folder = run.plan, run.folder
    outcome = "(the first stage)"
    if not plan.is_stage:
        score = f"{plan.task.title} {record['results']['last'][plan.task.metric]:.2f} %"
        outcome = f"({score}); overwrite=true runs it again"
    print(f"already finished: {folder.path} {outcome}")
    if plan.trains_teacher and rank() == 0:
        load_weights(training.student.model, folder.path / "student.safetensors")
        store(training, record, plan.cfg.overwrite)
    config = plan.config
    if places_of(record["config"]) != places_of(config):  # tables find their runs by these paths
        record = {**record, "config": moved(record["config"], config)}
        folder.write_record(record)
    run.record = record


def _checkpoint(run: PreparedRun) -> dict[str, Any] | None:
    """Return the state of an unfinished run that is to be continued; otherwise clear the folder.

    With both `resume` and `overwrite`, an unfinished run goes on and a finished one starts again.
    """
    folder, cfg = run.folder, run.plan.cfg
    has_state = (folder.path / "state.pt").is_file()
    is_done = has_state and (folder.record() or {}).get("state") == "done"
    if not has_state or (cfg.overwrite and (is_done or not cfg.resume)):
        folder.clear()
    elif not cfg.resume:
        raise ValueError(
            f"{folder.path} holds an unfinished run; resume=true continues it, overwrite=true starts again"
        )
    if cfg.resume and not has_state and not run.plan.is_stage:
        _mention_others(run)
    state = folder.load_state()
    write_atomically(folder.path / "config.yaml", OmegaConf.to_yaml(cfg).encode())
    return state


def _mention_others(run: PreparedRun) -> None:
    """Name an unfinished run with the same title: resume=true was perhaps meant for it."""
    path = run.folder.path
    if others := sorted(path.parent.glob(f"{run.plan.title}-*/state.pt")):
        print(f"nothing to resume in {path}; of another recipe, data or teacher: {others[-1].parent}")
