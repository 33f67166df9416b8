"""Runs: build -> fit -> record. A single run is a cohort of one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from kdbench.core.errors import RunError
from kdbench.distributed.collectives import agreed, rank, world_size
from kdbench.distributed.launch import explained, together
from kdbench.models.checkpoints import load_weights
from kdbench.runs.cohort import cohorts, identity
from kdbench.runs.fit import fit
from kdbench.runs.identity import moved, places_of
from kdbench.runs.plan import Plan, first_stage
from kdbench.runs.record import Member
from kdbench.runs.stored_answers import member_of, stored_answers
from kdbench.runs.weights import init_file, load_teacher, network, teacher_files
from kdbench.teachers.cache.kinds import CACHES
from kdbench.teachers.live import LiveTeacher
from kdbench.teachers.store import card_of
from kdbench.training.evaluation import evaluate
from kdbench.training.student import Student
from kdbench.training.teacher_module import store
from kdbench.utils.hardware import emulates_bf16, free_cores
from kdbench.utils.precision import disable_tf32

_THREADS = torch.get_num_threads()
"""What this process began with: a run of a sweep must not inherit what the one before it had."""


def _say_emulation(plan: Plan) -> None:
    """Warn, once in a process, of a precision that costs time here instead of saving it."""
    precision = plan.cfg.precision
    if precision != "fp32" and emulates_bf16(plan.cfg.trainer.accelerator):
        warnings.warn(
            f"precision={precision}: this CPU has no bf16 units, so bfloat16 is emulated, and slower than fp32",
            stacklevel=2,
        )


def _say_threads(plan: Plan) -> None:
    """Warn where threads will wait for each other: bfloat16's kernels do so spinning, at several times the CPU time."""
    threads, cores = plan.cfg.threads, free_cores()
    if threads is not None and threads > cores and plan.ranks == 1:
        warnings.warn(
            f"threads={threads}, and this process may use {cores} core(s): it will be slower", stacklevel=2
        )


def run(plan: Plan) -> dict[str, Any]:
    """Train one student alone, and return the record of the run; a finished run is left alone."""
    (member,) = run_cohort([plan])
    if member.error is not None:
        raise member.error
    return member.record


def run_cohort(plans: Sequence[Plan], watchers: Sequence[Callback] = ()) -> list[Member]:
    """Train what `plans` (of one cohort) say on the same batches, with one teacher call for each; finished runs
    are left alone.

    Losses with a first stage have that run before, or find it finished by an earlier run. A member that fails
    alone has an `error`; what ends all of them is raised, once their records say so. `watchers` look on in training.
    On several devices (`trainer=ddp`) every rank calls this, and there is one run in the cohort.
    """
    if len(plans) > 1 and plans[0].ranks > 1:
        raise ValueError(
            f"{len(plans)} students side by side on {plans[0].ranks} devices: with trainer=ddp each run is trained by "
            f"itself; give hydra/launcher=process, or one device"
        )
    with together(plans[0].cfg.trainer):
        members = _run_cohort(plans, watchers)
        if plans[0].ranks > 1 and members[0].error is not None:
            raise members[0].error  # the other ranks are to end, too
        return members


def _run_cohort(plans: Sequence[Plan], watchers: Sequence[Callback]) -> list[Member]:
    data = plans[0].data
    plans = [replace(plan, data=data) for plan in plans]
    stages = _first_stages(plans)
    usual = torch.get_num_threads() if world_size() > 1 else min(_THREADS, free_cores())
    torch.set_num_threads(plans[0].cfg.threads or usual)
    disable_tf32()
    _say_emulation(plans[0])
    _say_threads(plans[0])
    files = teacher_files(plans[0])
    for plan in plans:
        init_file(plan)  # missing ones are said before the data are loaded
    data.setup("fit")
    data.to("cpu")  # as everything is built there; a first stage leaves the images where it was trained
    teacher = load_teacher(plans[0], files)
    stored = stored_answers(plans, teacher)
    words = None
    if teacher is not None and teacher.top_k:
        words = CACHES[plans[0].task.answer_cache].without_cache(teacher, data)
    members = [member_of(plan, teacher, stored, words) for plan in plans]
    try:
        # in one order everywhere: processes that wait for each other's first stages never wait in a circle
        for member in sorted(members, key=lambda member: member.folder.path):
            with member.by_itself():
                _prepare(member, teacher, stages)
        if working := [member for member in members if member.student is not None and member.error is None]:
            _train(working, teacher, watchers)
    finally:
        for member in members:
            member.folder.close()
    return members


def _first_stages(plans: Sequence[Plan]) -> dict[tuple[str, str], Member]:
    """The first stages that the plans need, each made once, side by side where they can be."""
    stages = [first_stage(plan) for plan in plans if plan.loss.stage]
    different: dict[tuple[str, str], Plan] = {}
    for stage in stages:
        different.setdefault(identity(stage), stage)  # whoever comes first makes it, as in a sweep
    made = [member for group in cohorts(list(different.values())) for member in run_cohort(group)]
    return {identity(member.plan): member for member in made}


def _prepare(member: Member, teacher: LiveTeacher | None, stages: dict[tuple[str, str], Member]) -> None:
    """Lock the folder, and build the student as it is at the start or where an unfinished run stands."""
    plan, folder = member.plan, member.folder
    member.stage = first = stages[identity(first_stage(plan))] if plan.loss.stage else None
    if first is not None and first.error is not None:
        if isinstance(first.error, RunError):
            again = "delete its folder to begin it anew"
            raise RunError(f"the first stage: {first.error}; {again}") from first.error
        raise first.error
    earlier, done = agreed(member.open)
    student = _student(member, teacher)
    if first is not None:
        student.start_from(first.folder)
    if earlier and done:
        print(f"already finished: {folder.path} {_in_short(plan, earlier)}")
        if plan.trains_teacher and rank() == 0:
            load_weights(student.model, folder.path / "student.safetensors")
            store(student, earlier, plan.cfg.overwrite)
        member.record = _where_files_are(earlier, member)
        return
    _begin(member, student)
    if member.resumed_threads:
        member.earlier = earlier
    member.student = student


def _where_files_are(record: dict[str, Any], member: Member) -> dict[str, Any]:
    """The record of a finished run, saying where its data are now: tables know their runs by that."""
    config = member.plan.config
    if places_of(record["config"]) != places_of(config):
        record = {**record, "config": moved(record["config"], config)}
        member.folder.write_record(record)
    return record


def _in_short(plan: Plan, record: dict[str, Any]) -> str:
    if plan.is_stage:
        return "(the first stage)"
    task = plan.task
    return f"({task.title} {record['results']['last'][task.metric]:.2f} %); overwrite=true runs it again"


def _student(member: Member, teacher: LiveTeacher | None) -> Student:
    plan, folder, data = member.plan, member.folder, member.plan.data
    about = {
        "model": plan.network["name"],
        "data": data.name,
        **data.label_info,
        "protocol": data.protocol,
    }
    if plan.loss.input is not None:
        about["input"] = plan.loss.input
    if plan.trains_teacher:
        about["teacher"] = plan.names["teacher"]
    else:
        by = f"of {plan.names['teacher']}" if plan.needs_teacher else "on the labels"
        about |= {"taught": f"{plan.names['loss'] or 'a loss'} {by}", "seed": plan.cfg.seed}
    model = network(plan, init_file(plan))
    if settings := getattr(model, "settings", ""):
        about["settings"] = settings
    student = Student(model, plan.loss, plan.schedule, folder, about, plan.task)
    student.stored = member.stored
    student.setup(teacher, data.probe_batch(), data.dataset_info, plan.cfg.seed)
    return student


def _begin(member: Member, student: Student) -> None:
    """Start afresh, or where an unfinished run stands."""
    if (state := agreed(member.state_to_begin_with)) is not None:
        member.resumed_threads = state["threads"]
        student.restore(state)
        progress = student.progress
        print(f"resuming {member.folder.path} at epoch {progress.epoch}, step {progress.step}")


def _restore_threads(members: Sequence[Member]) -> None:
    """Go on with the threads that the unfinished runs had, unless told otherwise, and say where they differ."""
    before = [member.resumed_threads for member in members if member.resumed_threads]
    if before and members[0].plan.cfg.threads is None:
        torch.set_num_threads(before[0])
    now = torch.get_num_threads()
    for threads in set(before) - {now}:
        print(f"resuming with {now} thread(s) what ran with {threads}: not the same to the bit")


def _say_teacher(teacher: LiveTeacher | None) -> None:
    """Who answers, and how good it is: a name in the store does not say that."""
    if teacher is None or rank():
        return
    about = {**card_of(teacher.sources[0]), **teacher.about}
    said = [f"{about['top1']:.2f} % on test"] if "top1" in about else []
    said += [f"after {about['epoch']} epochs"] if "epoch" in about else []
    said += [f"of {about['data']}"] if "data" in about else []
    print(f"teacher {teacher.name}: {' '.join(said) or teacher.sources[0]}")


def _say_loss(plan: Plan) -> None:
    """What of a loss is another pair's, or hardly begins in so few epochs."""
    loss, epochs = plan.loss, plan.cfg.trainer.max_epochs
    own = f"{plan.names['teacher']}:{plan.names.get('student', '')}"
    if loss.pair not in (None, own) and not rank():
        print(f"{plan.names['loss']}: the values published for {loss.pair} (loss.pair)")
    for name, ramp in loss.ramps.items():
        if ramp > epochs and not rank():
            print(f"{name}'s weight rises over {ramp} epochs, and this run has {epochs}")


def _train(members: Sequence[Member], teacher: LiveTeacher | None, watchers: Sequence[Callback]) -> None:
    """Fit, and bring every record to its end, whatever that is."""
    _restore_threads(members)
    _say_teacher(teacher)
    for member in members:
        _say_loss(member.plan)
    if read := next((one.stored.cache for one in members if one.stored and one.stored.cache), None):
        print(f"the teacher's answers are read from {read.name}")
    cohort = [member.name for member in members]
    try:
        for member in members:
            member.begin(teacher, cohort)
        with explained(members[0].fail):
            scores = fit(members, teacher, watchers)
        left = [member for member in members if member.error is None]
        if left and teacher is not None and not scores and not left[0].plan.is_stage:
            data = left[0].plan.data
            scores = evaluate(teacher.answering(data.eval_batch("test", 0, 1)), data, "test", teacher.bf16)
        for member in left:
            with member.by_itself():
                _finish(member, scores)
    except BaseException as error:
        for member in members:
            if member.record.get("state") == "running":
                member.end(error)
        raise


def _finish(member: Member, teacher_scores: dict[str, float]) -> None:
    """Write what was trained, and the results."""
    student, record = member.student, member.record
    assert student is not None
    epochs, epoch = member.plan.cfg.trainer.max_epochs, student.progress.epoch
    if epoch <= epochs:
        raise RunError(f"training ended at epoch {epoch} of {epochs}")
    student.save_weights()
    seconds = student.progress.seconds
    record |= {"parameters": student.parameter_counts, "results": student.results(), "seconds": seconds}
    record[f"{student.task.unit}_per_second"] = student.progress.images / max(seconds, 1e-9)
    if "teacher" in record:
        record["teacher"] |= teacher_scores
    if member.plan.trains_teacher and rank() == 0:
        print(f"stored {store(student, record, member.plan.cfg.overwrite)}")
    member.folder.write_record({**record, "state": "done"})
    record["state"] = "done"
