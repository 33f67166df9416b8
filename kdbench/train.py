"""One run: compose -> check -> build -> fit -> record. `python -m kdbench.train loss=wttm seed=1`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kdbench.config import CONF_DIR, PRECISIONS, build, register
from kdbench.data.module import ImageData
from kdbench.loss import Loss
from kdbench.models import check_name, create_model
from kdbench.progress import ProgressLine
from kdbench.results import RunError, RunFolder, digest, provenance, recipe_of
from kdbench.results import SCHEMA as RECORD_SCHEMA
from kdbench.schedule import Schedule
from kdbench.seeding import drawn_from
from kdbench.strict import checked, command_line_jobs, compose_checked
from kdbench.student import Interrupted, Student, StudentModule
from kdbench.teacher import LiveTeacher
from kdbench.teacher.module import TeacherModule
from kdbench.teacher.store import locate

USAGE, FAILED, INTERRUPTED = 2, 1, 130


@dataclass(frozen=True)
class Plan:
    """The parts of a run that cost nothing to build: they are made to find mistakes before any work."""

    cfg: DictConfig
    names: dict[str, str]
    data: ImageData
    loss: Loss
    schedule: Schedule
    network: DictConfig
    """The `teacher` or `student` node of the network to be trained."""

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain data."""
        config = OmegaConf.to_container(self.cfg)
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}

    @property
    def trains_teacher(self) -> bool:
        """Whether the network goes into the teacher store."""
        return "student" not in self.cfg

    @property
    def title(self) -> str:
        """The run in one word for people: what the folder's name begins with."""
        parts = (self.names["dataset"], self.names["teacher"], self.names.get("student"), self.names.get("loss"))
        return "-".join(part.replace("/", "_") for part in parts if part) + f"-s{self.cfg.seed}"


def plan(cfg: DictConfig, choices: dict[str, str]) -> Plan:
    """Build what is cheap; every ValueError here is the user's to mend."""
    if cfg.precision not in PRECISIONS:
        raise ValueError(f"precision={cfg.precision}; possible: {', '.join(PRECISIONS)}")
    for key in ("log_every", "evaluate_every", "threads"):
        if cfg[key] is not None and cfg[key] < 1:
            raise ValueError(f"{key} must be at least 1, got {cfg[key]}")
    schedule: Schedule = build(cfg.schedule)
    data: ImageData = build(cfg.dataset, seed=cfg.seed, batch_size=schedule.batch_size)
    loss: Loss = build(cfg.loss if "loss" in cfg else cfg.teacher_loss)
    network = cfg.student if "student" in cfg else cfg.teacher
    check_name(network.name)
    names = {group: choices.get(group, "") for group in ("dataset", "loss")}
    names |= {side: cfg[side].name for side in ("teacher", "student") if side in cfg}
    if "loss" in cfg and loss.needs_teacher and cfg.teacher.name == "none":
        raise ValueError(f"loss={names['loss']} needs a teacher, and teacher=none is nobody")
    return Plan(cfg, names, data, loss, schedule, network)


def run(planned: Plan) -> dict[str, Any]:
    """Train, and return the record of the run; finished runs are left alone."""
    cfg, data = planned.cfg, planned.data
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    teacher_file = _teacher_file(planned)
    data.setup("fit")
    teacher = _teacher(planned, teacher_file)
    hashes = {"recipe": recipe_hash(planned), "data": data.fingerprint}
    if teacher is not None and planned.loss.needs_teacher:
        hashes["teacher"] = teacher.hash
    folder = RunFolder(Path(cfg.output) / f"{planned.title}-{digest(hashes)[:8]}")
    folder.open()
    earlier = folder.record()
    if earlier and earlier["state"] == "done" and not cfg.overwrite:
        print(f"already finished: {folder.path} (top-1 {earlier['results']['last']['top1']:.2f} %); overwrite=true runs it again")
        return earlier
    student = _student(planned, teacher, folder)
    _begin(planned, folder, student)
    record = _record(planned, hashes, teacher)
    folder.write_record(record)
    return _finish(planned, folder, record, student, teacher)


def _teacher_file(planned: Plan) -> Path | None:
    cfg = planned.cfg
    if planned.trains_teacher or cfg.teacher.name == "none":
        return None
    check_name(cfg.teacher.name)
    return locate(cfg.teacher.name, planned.data.label_space, cfg.teacher.checkpoint)


def _teacher(planned: Plan, file: Path | None) -> LiveTeacher | None:
    if file is None:
        return None
    bf16 = planned.cfg.precision != "fp32"
    data = planned.data
    teacher: LiveTeacher = build(
        planned.cfg.teacher, num_classes=data.num_classes, label_space=data.label_space, checkpoint=str(file), bf16=bf16
    )
    return teacher


def recipe_hash(planned: Plan) -> str:
    """What of the configuration and of the objectives' versions changes weights, as a hash."""
    versions = {name: term.version for name, term in planned.loss.terms.items()}
    return digest(recipe_of(planned.config) | {"objective_versions": versions})


def _student(planned: Plan, teacher: LiveTeacher | None, folder: RunFolder) -> Student:
    node, data = planned.network, planned.data
    with drawn_from(planned.cfg.seed, "init"):
        model = create_model(node.name, data.num_classes, options=OmegaConf.to_container(node.get("options") or OmegaConf.create({})))
    about = {"model": node.name, "num_classes": data.num_classes, "label_space": data.label_space, "classes": list(data.classes)}
    name = node.name if planned.trains_teacher else (planned.names["loss"] or "student")
    student = Student(name, model, planned.loss, folder, about)
    student.bind(teacher, data.probe(), data.facts, planned.cfg.seed)
    return student


def _begin(planned: Plan, folder: RunFolder, student: Student) -> None:
    """Start afresh, or where an unfinished run stands."""
    cfg = planned.cfg
    exists = (folder.path / "state.pt").is_file()
    if cfg.overwrite or not exists:
        folder.clear()
    elif not cfg.resume:
        raise ValueError(f"{folder.path} holds an unfinished run; resume=true continues it, overwrite=true starts again")
    state = folder.load_state()
    if state is not None:
        if cfg.threads is None:
            torch.set_num_threads(state["threads"])
        student.restore(state)
        print(f"resuming {folder.path} at epoch {student.progress.epoch}, step {student.progress.step}")
    folder.path.joinpath("config.yaml").write_text(OmegaConf.to_yaml(cfg))


def _record(planned: Plan, hashes: dict[str, str], teacher: LiveTeacher | None) -> dict[str, Any]:
    config = planned.config
    record: dict[str, Any] = {"schema": RECORD_SCHEMA, "state": "running", "reason": None}
    record |= {"names": planned.names, "seed": planned.cfg.seed, "table": planned.cfg.table, "tags": config["tags"]}
    record |= {"hashes": hashes, "config": config, **provenance()}
    if teacher is not None:
        record["teacher"] = {"name": teacher.name, "file": teacher.source.name if teacher.source else None, "hash": teacher.hash}
    return record


def _finish(
    planned: Plan, folder: RunFolder, record: dict[str, Any], student: Student, teacher: LiveTeacher | None
) -> dict[str, Any]:
    """Fit, and bring the record to its end, whatever that is."""
    try:
        module = _module(planned, student, teacher)
        _fit(planned, module, folder)
        student.save_weights("student", {"epoch": student.progress.epoch - 1})
        record |= {"state": "done", "results": results_of(student), "seconds": student.progress.seconds}
        if teacher is not None:
            record["teacher"] |= module.teacher_scores()
        record["images_per_second"] = student.progress.images / max(student.progress.seconds, 1e-9)
        if isinstance(module, TeacherModule):
            print(f"stored {module.store(record)}")
    except BaseException as error:
        state = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        record |= {"state": state, "reason": str(error) or type(error).__name__}
        folder.write_record(record)
        raise
    folder.write_record(record)
    return record


def _module(planned: Plan, student: Student, teacher: LiveTeacher | None) -> StudentModule:
    cfg = planned.cfg
    settings = {"bf16": cfg.precision == "bf16", "evaluate_every": cfg.evaluate_every, "save_every": cfg.save_every}
    if planned.trains_teacher:
        return TeacherModule(student, planned.data, planned.schedule, cfg.seed, **settings)
    return StudentModule({student.name: student}, teacher, planned.data, planned.schedule, cfg.seed, **settings)


def _fit(planned: Plan, module: StudentModule, folder: RunFolder) -> None:
    cfg, data = planned.cfg, planned.data
    data.position, data.steps_per_chunk = module.position, cfg.log_every
    left = cfg.trainer.max_epochs - module.position[0] + 1
    if left <= 0:
        return
    pair = f"{planned.names['teacher']} -> {planned.names.get('student', 'itself')}"
    logger = build(
        cfg.logger,
        folder=folder.path,
        name=folder.path.name,
        default_group=f"{cfg.table}: {pair}" if cfg.table else pair,
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
            callbacks=[ProgressLine(planned.title, cfg.trainer.max_epochs)] if cfg.progress else [],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
        )
        with _stopping_cleanly(module):
            trainer.fit(module, datamodule=data)


class _stopping_cleanly:  # noqa: N801 - read as a phrase after `with`
    """Ctrl-C (or SIGTERM) asks the module to stop after the current step; a second one stops at once."""

    def __init__(self, module: StudentModule) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self.module.stop_requested:
            raise KeyboardInterrupt
        self.module.stop_requested = True


def results_of(student: Student) -> dict[str, Any]:
    """The accuracies of a run under the names that say how the epoch was chosen."""
    curve = student.progress.curve

    def of(row: dict[str, Any]) -> dict[str, Any]:
        scores = {key.removeprefix("test/"): value for key, value in row.items() if key.startswith("test/")}
        return {"epoch": row["epoch"], **scores}

    results = {"last": of(curve[-1]), "best_on_test": of(max(curve, key=lambda row: row["test/top1"]))}
    if "validation/top1" in curve[-1]:
        best = max(curve, key=lambda row: row["validation/top1"])
        results["best_validation"] = {**of(best), "validation_top1": best["validation/top1"]}
    return {**results, "curve": curve}


def job(root: str, cfg: DictConfig, outcomes: list[int]) -> None:
    """One Hydra job: a run whose expected failures are one message each, so that a sweep goes on."""
    choices = dict(HydraConfig.get().runtime.choices)
    try:
        record = run(plan(checked(root, cfg), choices))
        outcomes.append(0)
        _say_result(record)
    except Interrupted as error:
        outcomes.append(INTERRUPTED)
        print(f"kdbench: {error}; the same command with resume=true continues", file=sys.stderr)
    except (RunError, ValueError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        outcomes.append(FAILED)
        print(f"kdbench: {error}", file=sys.stderr)


def _say_result(record: dict[str, Any]) -> None:
    last, best = record["results"]["last"], record["results"]["best_on_test"]
    agreement = f", agrees with the teacher on {last['agreement']:.2f} %" if "agreement" in last else ""
    print(
        f"test top-1 {last['top1']:.2f} % (top-5 {last['top5']:.2f} %) at the last epoch {last['epoch']}{agreement}; "
        f"best_on_test {best['top1']:.2f} % at epoch {best['epoch']}; {record['seconds']:.0f} s"
    )


def main(root: str = "train") -> None:
    """Check the whole command line before any work, then hand it to Hydra."""
    register()
    outcomes: list[int] = []
    try:
        for overrides in command_line_jobs(sys.argv[1:]):
            cfg = compose_checked(root, overrides)
            if "--cfg" not in sys.argv and "-c" not in sys.argv:
                plan(cfg, {})
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        sys.exit(USAGE)
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=root)(lambda cfg: job(root, cfg, outcomes))()
    sys.exit(max(outcomes, default=0))


if __name__ == "__main__":
    main()
