"""The two sides of the comparison, on the same images and the same initial weights."""

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
from kdbench.teachers.cache.logits_writer import ViewFilling
from kdbench.teachers.cache.writer import CacheWriter
from kdbench.utils.paths import PACKAGE

BATCH = 64
FOLDERS = (PACKAGE.parent / "benchmarks", PACKAGE / "_benchmarks")
"""Where reference.py is: in a checkout, and in an installed package."""


@dataclass(frozen=True)
class Setting:
    """One way in which kdbench trains: in which precision, for which losses, and who answers for the teacher."""

    precision: str = "fp32"
    losses: tuple[str, ...] = ("kd",)
    cached: bool = False

    @property
    def about(self) -> str:
        """The setting in words."""
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
    """What both sides of a pair share: images, a teacher with random weights (also as a file), threads.

    dataset: what a run of kdbench has on its command line for the data. folder: where the runs go.
    """

    pair: str
    data: ImageData
    dataset: tuple[str, ...]
    weights: Mapping[str, Tensor]
    checkpoint: Path
    threads: int
    folder: Path

    def plans(self, setting: Setting, *more: str) -> list[Plan]:
        """The runs of kdbench in this setting: one, or a cohort."""
        words = [f"precision={setting.precision}", *more]
        if setting.cached:
            words.append("teacher.cache=require")
        return [self.plan(f"loss={loss}", *words) for loss in setting.losses]

    def plan(self, *more: str) -> Plan:
        """One run as `kdbench train` would plan it, without evaluation, and with nothing on the screen."""
        teacher, student = self.pair.split(":")
        overrides = [*self.dataset, f"teacher={teacher}", f"student={student}", "trainer=cpu"]
        overrides += [f"teacher.checkpoint={self.checkpoint}", "teacher.cache=off", f"threads={self.threads}"]
        overrides += [f"output={self.folder}", "overwrite=true", "progress=false", "save_every=1e9"]
        overrides += ["evaluate_every=1000000", *more]
        choices = dict(override.split("=", 1) for override in overrides)
        made = make_plan(compose_checked("train", overrides), choices)
        return replace(made, data=self.data) if made.data.batch_size == self.data.batch_size else made


def setup(pair: str, data: ImageData, dataset: Sequence[str], threads: int, folder: Path) -> Setup:
    """With a teacher whose BatchNorm has seen real images: with fresh statistics its answers would explode."""
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
    """The loop of benchmarks/reference.py, a turn at a time."""

    def __init__(self, made: Setup, watch: Stopwatch) -> None:
        module, data = reference_module(), made.data
        teacher, student = (module.NETWORKS[name](classes=data.num_classes) for name in made.pair.split(":"))
        teacher.load_state_dict(made.weights)
        torch.manual_seed(0)
        student.load_state_dict(create_model(made.pair.split(":")[1], data.num_classes).state_dict())
        images = np.ascontiguousarray(data.train_images.permute(0, 2, 3, 1).numpy())
        config = made.plan().config["dataset"]
        labels = data.dataset_info.labels.tolist()
        loader = module.make_loader(images, labels, config["mean"], config["std"], data.batch_size)
        self._watch, self._rows = watch, data.batch_size
        self._loop = module.train(loader, teacher, student, watch.mark)

    def turn(self, steps: int) -> Turn:
        """So many steps, all of full batches, behind one that is not counted."""
        while True:
            next(self._loop)
            self._watch.start()
            rows = [next(self._loop)[0] for _ in range(steps)]
            turn = self._watch.stop(steps)
            if min(rows) == self._rows:
                return turn


def reference_module() -> Any:
    """benchmarks/reference.py, which is no part of the package."""
    file = next(path for folder in FOLDERS if (path := folder / "reference.py").is_file())
    spec = importlib.util.spec_from_file_location("kdbench_reference", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seal_zeros(plan: Plan) -> CacheWriter:
    """Make the cache that a run will find: of all views, in which every logit is 0. Reading zeros takes as long.

    It is read through once, as after a first run: what is measured is a warm cache.
    """
    plan.data.setup("fit")
    teacher = load_teacher(plan, teacher_files(plan))
    assert teacher is not None
    filling = ViewFilling(teacher, cast("ImageData", plan.data))
    filling.folder.mkdir(parents=True, exist_ok=True)
    with open(filling.folder / LOGITS, "w+b") as file:
        file.truncate(filling.bytes)  # nothing is written: the system gives zeros where a file has a hole
        while file.read(1 << 24):
            pass
    filling.seal(0.0, {})
    return filling
