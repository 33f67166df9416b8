"""Execute planned runs: first stages, preparation, training, and the record."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from kdbench.config.build import build
from kdbench.core.errors import RunError
from kdbench.distributed.collectives import rank
from kdbench.distributed.launch import OneNetwork, explained, of_trainer, together
from kdbench.runs import record
from kdbench.runs.cohort import cohorts
from kdbench.runs.plan import Plan, first_stage
from kdbench.runs.prepare import PreparedCohort, PreparedRun, prepared
from kdbench.teachers.live import LiveTeacher
from kdbench.teachers.store import card_of
from kdbench.training.callbacks import ProgressLine, StopOnSignal
from kdbench.training.cuda_graph import CudaGraph
from kdbench.training.evaluation import evaluate
from kdbench.training.loggers import Conclusion, RunLogger, close
from kdbench.training.module import StudentModule
from kdbench.training.student_run import StudentRun
from kdbench.training.teacher_module import TeacherModule


def run(plan: Plan) -> dict[str, Any]:
    """Train one student alone.

    Returns:
        The record of the run. A run that is finished already is not trained again.

    Raises:
        RunError: Training failed, e.g. because the loss is not finite.
        ValueError: The plan does not fit the files that it names.
    """
    (run,) = run_cohort([plan])
    if run.error is not None:
        raise run.error
    return run.record


def run_cohort(plans: Sequence[Plan], callbacks: Sequence[Callback] = ()) -> list[PreparedRun]:
    """Train the students of one cohort on the same batches, with one teacher call for each batch.

    A loss with a first stage has that trained before, or finds it finished by an earlier run. Runs that are finished
    already are not trained again. With several devices (`trainer=ddp`) every rank calls this with the same one plan.

    Args:
        plans: The plans, one group of `cohorts`.
        callbacks: Lightning callbacks that observe training.

    Returns:
        The runs in the order of the plans. A run that failed alone has an `error`.

    Raises:
        RunError: All runs failed; their records say so.
        ValueError: The plans do not fit the files that they name, or need one device.
        Interrupted: A signal stopped the runs; their checkpoints are saved.
    """
    if len(plans) > 1 and plans[0].ranks > 1:
        raise ValueError(
            f"{len(plans)} students side by side on {plans[0].ranks} devices: with trainer=ddp each run is trained by "
            f"itself; give hydra/launcher=process, or one device"
        )
    with together(plans[0].cfg.trainer):
        plans = [replace(plan, data=plans[0].data) for plan in plans]
        with prepared(plans, _first_stages(plans)) as cohort:
            if cohort.trainable:
                _train(cohort, callbacks)
        if plans[0].ranks > 1 and cohort.runs[0].error is not None:
            raise cohort.runs[0].error  # which ends the other ranks, too
        return cohort.runs


def _first_stages(plans: Sequence[Plan]) -> dict[tuple[str, str], PreparedRun]:
    """Train the first stages of the plans, each once, side by side where possible."""
    stages: dict[tuple[str, str], Plan] = {}
    for plan in plans:
        if plan.loss.stage:
            stage = first_stage(plan)
            stages.setdefault(stage.key, stage)
    runs = [run for group in cohorts(list(stages.values())) for run in run_cohort(group)]
    return {run.plan.key: run for run in runs}


def _train(cohort: PreparedCohort, callbacks: Sequence[Callback]) -> None:
    """Train the runs of a cohort and write the end of each to its record, whatever it is."""
    runs, teacher = cohort.trainable, cohort.teacher
    _restore_threads(runs)
    _print_settings(runs, teacher)
    names = [run.name for run in runs]
    try:
        for run in runs:
            record.begin(run, teacher, names)
        with explained(lambda error: record.fail(runs[0], error)):
            scores = _fit(runs, teacher, callbacks)
        remaining = [run for run in runs if run.error is None]
        if remaining and teacher is not None and not scores and not remaining[0].plan.is_stage:
            scores = _score_on_test(teacher, remaining[0].plan)
        for run in remaining:
            try:
                record.finish(run, scores)
            except (RunError, ValueError) as error:
                record.fail(run, error)
    except BaseException as error:
        for run in runs:
            if run.record.get("state") == "running":
                record.stop(run, error)
        raise


def _score_on_test(teacher: LiveTeacher, plan: Plan) -> dict[str, float]:
    data = plan.data
    return evaluate(teacher.network_for(data.eval_batch("test", 0, 1)), data, "test", teacher.bf16)


def _restore_threads(runs: Sequence[PreparedRun]) -> None:
    """Use the number of threads of the unfinished runs, unless the command sets another, and report differences."""
    earlier = [run.earlier_threads for run in runs if run.earlier_threads]
    if earlier and runs[0].plan.cfg.threads is None:
        torch.set_num_threads(earlier[0])
    threads = torch.get_num_threads()
    for other in set(earlier) - {threads}:
        print(f"resuming with {threads} thread(s) what ran with {other}: not the same to the bit")


# ---- training with Lightning


def _fit(
    runs: Sequence[PreparedRun], teacher: LiveTeacher | None, callbacks: Sequence[Callback]
) -> dict[str, float]:
    """Train what is left to train of the runs; return the teacher's scores on test, or nothing if it has no part.

    A run that fails alone has an `error` afterwards; an error that ends all of them is raised.
    """
    plan = runs[0].plan
    cfg, epochs = plan.cfg, plan.cfg.trainer.max_epochs
    unfinished = {
        run.training: run
        for run in runs
        if run.training is not None and run.training.student.progress.epoch <= epochs
    }
    if not unfinished:
        return {}
    module = _module(plan, unfinished, teacher)
    line = [ProgressLine(_title(plan, len(unfinished)), epochs)] if cfg.progress else []
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its notes on devices and products
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        stack.callback(lambda: close(training.logger for training in unfinished))
        for training, run in unfinished.items():
            training.logger = _logger(run)
        trainer: lightning.Trainer = build(
            cfg.trainer,
            max_epochs=epochs - module.position[0] + 1,
            logger=False,  # every student has its own
            callbacks=[StopOnSignal(), OneNetwork(), *line, *callbacks],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            **of_trainer(cfg.trainer),
        )
        try:
            trainer.fit(module)
        except (RunError, ValueError):
            if any(run.error is None for run in unfinished.values()):
                raise
        for run in unfinished.values():
            _log_conclusion(run, module)
    return module.teacher_scores


def _module(plan: Plan, runs: Mapping[StudentRun, PreparedRun], teacher: LiveTeacher | None) -> StudentModule:
    cfg = plan.cfg
    settings: dict[str, Any] = {
        "bf16": cfg.precision == "bf16",
        "evaluate_every": cfg.evaluate_every,
        "save_every": cfg.save_every,
        "on_failure": lambda training, error: record.fail(runs[training], error),
        "graph": CudaGraph if cfg.cuda_graph else None,
        "score_finally": not plan.is_stage,
        "steps_per_chunk": cfg.log_every,
    }
    if plan.trains_teacher:
        return TeacherModule(next(iter(runs)), plan.data, cfg.seed, **settings)
    return StudentModule(list(runs), teacher, plan.data, cfg.seed, **settings)


# ---- loggers


def _logger(run: PreparedRun) -> RunLogger | None:
    """Build the logger of a run (W&B, TensorBoard, CSV); None without one and on ranks other than 0."""
    if rank():
        return None
    plan = run.plan
    cfg, names = plan.cfg, plan.names
    alone = "a first stage" if plan.is_stage else "itself"
    pair = f"{names['teacher']} -> {names.get('student', alone)}"
    group = ", ".join(filter(None, (pair, names.get("loss"))))
    about = {"table": cfg.table_name, "pair": pair, "loss_name": names.get("loss")}
    logger: RunLogger | None = build(
        cfg.logger,
        folder=run.folder.path,
        name=run.name,
        default_group=f"{cfg.table_name}: {group}" if cfg.table_name else group,
        seed=cfg.seed,
        tags=[*cfg.tags, *filter(None, names.values()), f"seed {cfg.seed}"],
        run_config={**plan.config, **about, "hashes": run.hashes},
    )
    return logger


def _log_conclusion(run: PreparedRun, module: StudentModule) -> None:
    """Send the results of a run that was trained to its end to its logger."""
    training = run.training
    if training is None or training.logger is None or run.error is not None:
        return
    student = training.student
    results, progress = student.results(), student.progress
    summary: dict[str, Any] = {"seconds": progress.seconds, "parameters": student.parameter_counts["at_test"]}
    for name, scores in {**results, "teacher": module.teacher_scores}.items():
        if isinstance(scores, Mapping):
            summary |= {f"{name}/{key}": value for key, value in scores.items()}
    classes = run.plan.data.label_info.get("classes", ())
    by_class = zip(classes, results.get("recall", ()), strict=False)
    recall = {name: share for name, share in by_class if share is not None}
    confusion = module.scoring.metric(student, "test").confusion if classes else None
    counts = None if confusion is None else confusion.tolist()
    training.logger.conclude(Conclusion(summary, recall, classes, counts))


# ---- messages


def _title(plan: Plan, students: int) -> str:
    if students == 1:
        return plan.title
    return f"{plan.names['dataset']}-{plan.names['teacher']}-s{plan.cfg.seed}, {students} students,"


def _print_settings(runs: Sequence[PreparedRun], teacher: LiveTeacher | None) -> None:
    """Print on rank 0 who the teacher is, what is unusual about each loss, and which cache is read."""
    if rank():
        return
    if teacher is not None:
        _print_teacher(teacher)
    for run in runs:
        _print_loss(run.plan)
    caches = (run.answers.cache for run in runs if run.answers is not None)
    if cache := next(filter(None, caches), None):
        print(f"the teacher's answers are read from {cache.name}")


def _print_teacher(teacher: LiveTeacher) -> None:
    about = {**card_of(teacher.sources[0]), **teacher.about}
    facts = [f"{about['top1']:.2f} % on test"] if "top1" in about else []
    facts += [f"after {about['epoch']} epochs"] if "epoch" in about else []
    facts += [f"of {about['data']}"] if "data" in about else []
    print(f"teacher {teacher.name}: {' '.join(facts) or teacher.sources[0]}")


def _print_loss(plan: Plan) -> None:
    """Say which pair the loss's values were published for, and which weights are still rising at the end."""
    loss, epochs = plan.loss, plan.cfg.trainer.max_epochs
    pair = f"{plan.names['teacher']}:{plan.names.get('student', '')}"
    if loss.pair not in (None, pair):
        print(f"{plan.names['loss']}: the values published for {loss.pair} (loss.pair)")
    for name, ramp in loss.ramps.items():
        if ramp > epochs:
            print(f"{name}'s weight rises over {ramp} epochs, and this run has {epochs}")
