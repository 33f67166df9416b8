"""The two sides of the comparison, with the same images and the same initial weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from kdbench.benchmark.stopwatch import Stopwatch, Turn
from kdbench.config.compose import compose_checked
from kdbench.data.images.image_data import ImageData
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.plan import Plan, make_plan
from kdbench.runs.weights import load_teacher, teacher_files
from kdbench.teachers.cache.logits import LOGITS
from kdbench.teachers.cache.logits_writer import LogitsCacheWriter
from kdbench.teachers.cache.writer import CacheWriter
from kdbench.utils.paths import PACKAGE

BATCH = 64
FOLDERS = (PACKAGE.parent / "benchmarks", PACKAGE / "_benchmarks")
"""Folders that may hold reference.py: in a checkout, and in an installed package."""


@dataclass(frozen=True)
class Setting:
    """A way to train: precision, losses (several are a cohort), live teacher or warm cache."""

    precision: str = "fp32"
    losses: tuple[str, ...] = ("kd",)
    cached: bool = False

    @property
    def about(self) -> str:
        """A description of the setting."""
        cohort = f", cohort of {len(self.losses)}" if len(self.losses) > 1 else ""
        return f"{'warm cache' if self.cached else 'live teacher'}{cohort}, {self.precision}"


_COHORT = ("kd", "ttm", "wttm", "dkd")
_KINDS: dict[str, dict[str, Any]] = {
    "live": {},
    "cohort": {"losses": _COHORT},
    "warm": {"cached": True},
    "warm-cohort": {"cached": True, "losses": _COHORT},
}
SETTINGS = {
    f"{kind}-{precision}": Setting(precision, **which)
    for kind, which in _KINDS.items()
    for precision in ("fp32", "bf16")
}


@dataclass(frozen=True)
class Setup:
    """The settings that both sides of a pair share.

    Attributes:
        pair: TEACHER:STUDENT.
        data: The images.
        dataset: Overrides of a run that select these images.
        weights: Weights of the teacher: random, with BatchNorm statistics of real images.
        checkpoint: File of these weights.
        threads: CPU threads.
        folder: Output folder of the runs.
    """

    pair: str
    data: ImageData
    dataset: tuple[str, ...]
    weights: Mapping[str, Tensor]
    checkpoint: Path
    threads: int
    folder: Path

    def plans(self, setting: Setting, *more: str) -> list[Plan]:
        """Return the plans of a setting: one run, or a cohort."""
        words = [f"precision={setting.precision}", *more]
        if setting.cached:
            words.append("teacher.cache=require")
        return [self.plan(f"loss={loss}", *words) for loss in setting.losses]

    def plan(self, *more: str) -> Plan:
        """Return the plan of a run as `kdbench train` makes it, without evaluation and output."""
        teacher, student = self.pair.split(":")
        overrides = [*self.dataset, f"teacher={teacher}", f"student={student}", "trainer=cpu"]
        overrides += [f"teacher.checkpoint={self.checkpoint}", "teacher.cache=off", f"threads={self.threads}"]
        overrides += [f"output={self.folder}", "overwrite=true", "progress=false", "save_every=1e9"]
        overrides += ["evaluate_every=1000000", *more]
        choices = dict(override.split("=", 1) for override in overrides)
        plan = make_plan(compose_checked("train", overrides), choices)
        return replace(plan, data=self.data) if plan.data.batch_size == self.data.batch_size else plan


def make_setup(pair: str, data: ImageData, dataset: Sequence[str], threads: int, folder: Path) -> Setup:
    """Create the setup of a pair.

    The teacher's BatchNorm statistics are taken from real images, because its logits would overflow with initial
    ones.
    """
    data.setup("fit")
    name, _, _ = pair.partition(":")
    torch.manual_seed(0)
    model = create_model(name, data.num_classes)
    steps = range(min(4, data.steps_per_epoch))
    update_bn([data.train_batch(1, step).inputs for step in steps], model)
    path = folder / f"{name}.safetensors"
    save_weights(model, path, {"model": name, "num_classes": data.num_classes})
    return Setup(pair, data, tuple(dataset), model.state_dict(), path, threads, folder)


class Reference:
    """The loop of benchmarks/reference.py, one turn at a time."""

    def __init__(self, setup: Setup, watch: Stopwatch) -> None:
        module, data = reference_module(), setup.data
        teacher, student = (module.NETWORKS[name](classes=data.num_classes) for name in setup.pair.split(":"))
        teacher.load_state_dict(setup.weights)
        torch.manual_seed(0)
        student.load_state_dict(create_model(setup.pair.split(":")[1], data.num_classes).state_dict())
        images = np.ascontiguousarray(data.train_images.permute(0, 2, 3, 1).numpy())
        config = setup.plan().config["dataset"]
        labels = data.dataset_info.labels.tolist()
        loader = module.make_loader(images, labels, config["mean"], config["std"], data.batch_size)
        self._watch, self._rows = watch, data.batch_size
        self._loop = module.train(loader, teacher, student, watch.mark)

    def turn(self, steps: int) -> Turn:
        """Time some steps of full batches, after one warm-up step."""
        while True:
            next(self._loop)
            self._watch.start()
            rows = [next(self._loop)[0] for _ in range(steps)]
            turn = self._watch.stop(steps)
            if min(rows) == self._rows:
                return turn


def reference_module() -> Any:
    """Import benchmarks/reference.py, which is not part of the package."""
    file = next(path for folder in FOLDERS if (path := folder / "reference.py").is_file())
    spec = importlib.util.spec_from_file_location("kdbench_reference", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seal_zeros(plan: Plan) -> CacheWriter:
    """Create a complete cache of teacher logits for a run, with all logits 0. Reading zeros takes as long.

    The file is read once, so that the run finds a warm cache, as after a first run.
    """
    plan.data.setup("fit")
    teacher = load_teacher(plan, teacher_files(plan))
    assert teacher is not None
    filling = LogitsCacheWriter(teacher, cast("ImageData", plan.data))
    filling.folder.mkdir(parents=True, exist_ok=True)
    with open(filling.folder / LOGITS, "w+b") as file:
        file.truncate(filling.bytes)  # a sparse file: reading it gives zeros
        while file.read(1 << 24):
            pass
    filling.seal(0.0, {})
    return filling
