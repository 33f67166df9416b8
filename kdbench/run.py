"""One run: build -> fit -> record."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import OmegaConf

from kdbench.config import build
from kdbench.core import RunError
from kdbench.files import write_atomically
from kdbench.loggers import close
from kdbench.metrics import evaluate
from kdbench.models import check_name, create_model, load_weights
from kdbench.plan import Plan, first_stage, recipe_hash
from kdbench.progress import ProgressLine, StopOnSignal
from kdbench.results import PROVENANCE, SCHEMA, RunFolder, digest, file_hash, provenance
from kdbench.seeding import drawn_from
from kdbench.student import Interrupted, Student, StudentModule
from kdbench.teacher import LiveTeacher
from kdbench.teacher.module import TeacherModule
from kdbench.teacher.store import check_free, locate

_THREADS = torch.get_num_threads()
"""What this process began with: a run of a sweep must not inherit what the one before it had."""


def _exact_float32() -> None:
    """fp32 means float32: CUDA's shortcut through TF32 is another precision."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def run(planned: Plan) -> dict[str, Any]:
    """Train, and return the record of the run; finished runs are left alone.

    A loss with a first stage has that run before, or finds it finished by an earlier run.
    """
    first = _stage(planned) if planned.loss.stage else None
    return _run(planned, first)[0]


def _stage(planned: Plan) -> RunFolder:
    """The folder of the finished first stage."""
    try:
        return _run(first_stage(planned), None)[1]
    except Interrupted:
        raise
    except RunError as error:
        raise RunError(f"the first stage: {error}; delete its folder to begin it anew") from error


def _run(planned: Plan, first: RunFolder | None) -> tuple[dict[str, Any], RunFolder]:
    cfg, data = planned.cfg, planned.data
    torch.set_num_threads(cfg.threads or _THREADS)
    _exact_float32()
    file = teacher_file(planned)
    data.setup("fit")
    teacher = _teacher(planned, file)
    hashes = {"recipe": recipe_hash(planned), "data": data.fingerprint}
    if teacher is not None and planned.needs_teacher:
        hashes["teacher"] = teacher.hash
    if planned.trains_teacher and not cfg.overwrite:
        check_free(data.label_space, planned.network["name"], hashes)
    folder = RunFolder(Path(cfg.output) / f"{planned.title}-{digest(hashes)[:8]}")
    folder.open(wait=planned.is_stage)
    try:
        return _run_in(folder, planned, teacher, hashes, first), folder
    finally:
        folder.close()


def _run_in(
    folder: RunFolder,
    planned: Plan,
    teacher: LiveTeacher | None,
    hashes: dict[str, str],
    first: RunFolder | None,
) -> dict[str, Any]:
    student = _student(planned, teacher, folder)
    if first is not None:
        student.start_from(first)
    module = _module(planned, student, teacher)
    earlier = folder.record()
    if earlier and _is_done(folder, planned, earlier) and not planned.cfg.overwrite:
        print(f"already finished: {folder.path} {_in_short(planned, earlier)}")
        if isinstance(module, TeacherModule):
            load_weights(student.model, folder.path / "student.safetensors")
            module.store(earlier)
        return earlier
    resumed = _begin(planned, folder, student)
    record = _record(planned, hashes, teacher, earlier if resumed else None)
    if first is not None and (stage := first.record()):
        record["stage"] = {"folder": first.path.name, "hashes": stage["hashes"], "seconds": stage["seconds"]}
    folder.write_record(record)
    return _finish(planned, folder, record, module, teacher)


def _is_done(folder: RunFolder, planned: Plan, record: dict[str, Any]) -> bool:
    """A first stage is what it left: one whose state was deleted to save space is run again."""
    return record["state"] == "done" and (not planned.is_stage or (folder.path / "state.pt").is_file())


def _in_short(planned: Plan, record: dict[str, Any]) -> str:
    if planned.is_stage:
        return "(the first stage)"
    return f"(top-1 {record['results']['last']['top1']:.2f} %); overwrite=true runs it again"


def teacher_file(planned: Plan) -> Path | None:
    """Where the weights of the run's teacher are; ValueError with the command that trains it."""
    cfg = planned.cfg
    if planned.trains_teacher or cfg.teacher.name == "none":
        return None
    check_name(cfg.teacher.name)
    return locate(cfg.teacher.name, planned.data.label_space, cfg.teacher.checkpoint, planned.teacher_command)


def _teacher(planned: Plan, file: Path | None) -> LiveTeacher | None:
    if file is None:
        return None
    supplied = {"num_classes": planned.data.num_classes, "checkpoint": str(file)}
    teacher: LiveTeacher = build(planned.cfg.teacher, **supplied, bf16=planned.cfg.precision != "fp32")
    classes = list(planned.data.classes)
    if teacher.about.get("classes", classes) != classes:
        raise ValueError(
            f"{file} was trained on other classes, or in another order, than {planned.data.name} has"
        )
    return teacher


def _student(planned: Plan, teacher: LiveTeacher | None, folder: RunFolder) -> Student:
    node, data = planned.network, planned.data
    with drawn_from(planned.cfg.seed, "init"):
        model = create_model(node["name"], data.num_classes, options=node.get("options"))
    about = {
        "model": node["name"],
        "num_classes": data.num_classes,
        "label_space": data.label_space,
        "classes": list(data.classes),
    }
    name = node["name"] if planned.trains_teacher else (planned.names["loss"] or "student")
    student = Student(name, model, planned.loss, folder, about)
    # everything is built on the CPU; after a first stage the data is where that was trained
    student.bind(teacher, data.probe().cpu(), data.facts, planned.cfg.seed)
    return student


def _begin(planned: Plan, folder: RunFolder, student: Student) -> bool:
    """Start afresh, or where an unfinished run stands; whether it is the latter."""
    cfg = planned.cfg
    exists = (folder.path / "state.pt").is_file()
    if cfg.overwrite or not exists:
        folder.clear()
    elif not cfg.resume:
        raise ValueError(
            f"{folder.path} holds an unfinished run; resume=true continues it, overwrite=true starts again"
        )
    if (
        cfg.resume
        and not planned.is_stage
        and not exists
        and (others := sorted(folder.path.parent.glob(f"{planned.title}-*/state.pt")))
    ):
        print(f"nothing to resume in {folder.path}; of another recipe, data or teacher: {others[-1].parent}")
    state = folder.load_state()
    write_atomically(folder.path / "config.yaml", OmegaConf.to_yaml(cfg).encode())
    if state is None:
        return False
    if cfg.threads is None:
        torch.set_num_threads(state["threads"])
    elif cfg.threads != state["threads"]:
        print(
            f"resuming with {cfg.threads} thread(s) what ran with {state['threads']}: not the same to the bit"
        )
    student.restore(state)
    print(f"resuming {folder.path} at epoch {student.progress.epoch}, step {student.progress.step}")
    return True


def _record(
    planned: Plan, hashes: dict[str, str], teacher: LiveTeacher | None, earlier: dict[str, Any] | None
) -> dict[str, Any]:
    config = planned.config
    record: dict[str, Any] = {"schema": SCHEMA, "state": "running", "reason": None}
    record["is_stage"] = planned.is_stage
    record |= {
        "names": planned.names,
        "seed": planned.cfg.seed,
        "table": planned.cfg.table_name,
        "tags": config["tags"],
    }
    record |= {"hashes": hashes, "config": config, **provenance()}
    if earlier:  # what resumed runs did before: other code or another machine may have had a part
        record["sessions"] = [*earlier.get("sessions", []), {key: earlier[key] for key in PROVENANCE}]
    if teacher is not None:
        record["teacher"] = {
            "name": teacher.name,
            "file": teacher.source.name,
            "file_hash": file_hash(teacher.source),
            "hash": teacher.hash,
        }
    return record


def _finish(
    planned: Plan,
    folder: RunFolder,
    record: dict[str, Any],
    module: StudentModule,
    teacher: LiveTeacher | None,
) -> dict[str, Any]:
    """Fit, and bring the record to its end, whatever that is."""
    (student,) = module.runs.values()
    try:
        _fit(planned, module, folder)
        if student.progress.epoch <= planned.cfg.trainer.max_epochs:
            raise RunError(
                f"training ended at epoch {student.progress.epoch} of {planned.cfg.trainer.max_epochs}"
            )
        student.save_weights()
        record["parameters"] = student.parameter_counts
        record |= {"state": "done", "results": student.results(), "seconds": student.progress.seconds}
        if teacher is not None:
            record["teacher"] |= module.teacher_scores or evaluate(
                teacher.model, planned.data, "test", teacher.bf16
            )
        record["images_per_second"] = student.progress.images / max(student.progress.seconds, 1e-9)
        if isinstance(module, TeacherModule):
            print(f"stored {module.store(record)}")
    except BaseException as error:
        state = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit)) else "failed"
        record |= {"state": state, "reason": str(error) or type(error).__name__}
        with suppress(RunError):  # a full disk has been said already
            folder.write_record(record)
        raise
    folder.write_record(record)
    return record


def _module(planned: Plan, student: Student, teacher: LiveTeacher | None) -> StudentModule:
    cfg = planned.cfg
    settings = {
        "bf16": cfg.precision == "bf16",
        "evaluate_every": cfg.evaluate_every,
        "save_every": cfg.save_every,
    }
    if planned.trains_teacher:
        return TeacherModule(student, planned.data, planned.schedule, cfg.seed, **settings)
    return StudentModule(
        {student.name: student}, teacher, planned.data, planned.schedule, cfg.seed, **settings
    )


def _fit(planned: Plan, module: StudentModule, folder: RunFolder) -> None:
    cfg, data = planned.cfg, planned.data
    data.position, data.steps_per_chunk = module.position, cfg.log_every
    epochs = cfg.trainer.max_epochs
    left = epochs - module.position[0] + 1
    if left <= 0:
        return
    alone = "a first stage" if planned.is_stage else "itself"
    pair = f"{planned.names['teacher']} -> {planned.names.get('student', alone)}"
    logger = build(
        cfg.logger,
        folder=folder.path,
        name=folder.path.name,
        default_group=f"{cfg.table_name}: {pair}" if cfg.table_name else pair,
        tags=[*cfg.tags, *filter(None, planned.names.values()), f"seed {cfg.seed}"],
        run_config=planned.config,
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its notes on devices and products
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer: lightning.Trainer = build(
            cfg.trainer,
            max_epochs=left,
            logger=logger or False,
            callbacks=[StopOnSignal(), *([ProgressLine(planned.title, epochs)] if cfg.progress else [])],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
        )
        try:
            trainer.fit(module, datamodule=data)
        finally:
            close(logger)
