"""Typed schemas of the four root configurations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class RunConfig:
    """The keys of conf/run.yaml with their types; that file describes them."""

    dataset: Any = MISSING
    schedule: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    seed: int = MISSING
    precision: str = MISSING
    threads: int | None = MISSING
    cuda_graph: bool = MISSING
    log_every: int = MISSING
    evaluate_every: int = MISSING
    diagnostics: bool = MISSING
    save_every: float = MISSING
    output: str = MISSING
    tags: list[str] = field(default_factory=list)
    table_name: str | None = MISSING
    progress: bool = MISSING
    resume: bool = MISSING
    overwrite: bool = MISSING


@dataclass
class TrainConfig(RunConfig):
    """conf/train.yaml: one student, distilled once."""

    teacher: Any = MISSING
    student: Any = MISSING
    loss: Any = MISSING


@dataclass
class TrainTeacherConfig(RunConfig):
    """conf/train_teacher.yaml: one network, trained on the labels."""

    teacher: Any = MISSING
    teacher_loss: Any = MISSING


@dataclass
class EvaluateConfig:
    """conf/evaluate.yaml: the accuracy of a checkpoint."""

    dataset: Any = MISSING
    model: Any = MISSING
    checkpoint: str = MISSING
    split: str = MISSING
    precision: str = MISSING
    threads: int | None = MISSING
    json: bool = MISSING
    store: str | None = MISSING


@dataclass
class AnalyzeConfig:
    """conf/analyze.yaml: the instruments, for a run or a checkpoint."""

    dataset: Any = MISSING
    model: Any = MISSING
    teacher: Any = MISSING
    checkpoint: str | None = MISSING
    split: str = MISSING
    against: str | None = MISSING
    gamma: float | None = MISSING
    images: list[int] | None = MISSING
    pictures: bool = MISSING
    output: str | None = MISSING
    threads: int | None = MISSING
    json: bool = MISSING


SCHEMAS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "train_teacher": TrainTeacherConfig,
    "evaluate": EvaluateConfig,
    "analyze": AnalyzeConfig,
}


TRAINER_OPTIONS: dict[str, Any] = {
    "accelerator": str,
    "devices": int | str,
    "max_epochs": int,
    "profiler": str | None,
    "detect_anomaly": bool,
    "strategy": str,
    "num_nodes": int,
    "sync_batchnorm": bool,
}
"""The options of Lightning's trainer that a run may set, with their types; others would change the weights without
changing the recipe."""

SUPPLIED = {
    "dataset": ("seed", "batch_size"),
    "model": ("num_classes", "checkpoint"),
    "student": ("num_classes", "checkpoint"),
    "teacher": ("num_classes", "bf16", "network"),
    "logger": ("folder", "name", "default_group", "seed", "tags", "run_config"),
}
"""Arguments that code gives to a section's target: no key of a configuration may have their names."""
