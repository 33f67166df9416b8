"""Measure what each objective costs: forward and backward at batch 64, with the shapes of resnet32x4 -> resnet8x4.

    python benchmarks/objectives.py [NAME ...] [--out benchmarks/objectives.json]

Each objective is measured with its defaults for C = 100 and 1000 classes: the median time, its share of the pair's
whole training step (teacher forward, student forward and backward, SGD), and the peak memory that it adds to the
outputs of both networks. Objective and step are measured in turn in one process, so that the share holds on a busy
machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from kdbench import objectives
from kdbench.config.build import load_yaml
from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss
from kdbench.models.features import answer_batch, feature_names
from kdbench.models.registry import create_model
from kdbench.utils.paths import CONF_DIR
from kdbench.utils.provenance import provenance

BATCH, CLASSES, TRAIN_SIZE = 64, (100, 1000), 50_000
STEPS, REPEATS = 2, 5


class Pair:
    """Both networks for one number of classes, their outputs for a batch, and a training step."""

    def __init__(self, classes: int) -> None:
        torch.manual_seed(0)
        self.teacher = create_model("resnet32x4", classes).eval().to(memory_format=torch.channels_last)
        self.student = create_model("resnet8x4", classes).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
        views = torch.randn(2, BATCH, 3, 32, 32)
        target, index = torch.randint(classes, (BATCH,)), torch.randperm(TRAIN_SIZE)[:BATCH]
        images = [view.contiguous(memory_format=torch.channels_last) for view in views]
        self.batch = Batch(images[0], target, index, epoch=1, views={"strong": images[1]})
        self.dataset_info = DatasetInfo(classes, torch.arange(TRAIN_SIZE) % classes, torch.arange(TRAIN_SIZE))
        with torch.no_grad():
            self.outputs = [
                answer_batch(network, self.batch, feature_names(network))
                for network in (self.student, self.teacher)
            ]

    def step(self) -> None:
        """Run a whole training step without any objective."""
        with torch.no_grad():
            self.teacher(self.batch.inputs)
        loss = nn.functional.cross_entropy(self.student(self.batch.inputs), self.batch.target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def loss_of(self, name: str) -> Loss:
        """Return an objective with its defaults, set up for this pair."""
        parameters = load_yaml(CONF_DIR / "objective" / f"{name}.yaml")
        parameters.pop("_target_")
        loss = Loss({"it": 1.0}, {"it": objectives.create(name, **parameters)})
        loss.choose_features(feature_names(self.student), feature_names(self.teacher))
        with torch.no_grad():
            probes = Probes(*(_rows(outputs, 4) for outputs in self.outputs))
        with torch.enable_grad():
            loss.setup(self.student, self.teacher, probes, self.dataset_info, seed=0)
        return loss.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def work(self, loss: Loss) -> Callable[[], None]:
        """Return a function that runs the objective forward and backward on the outputs of this pair."""
        student = _map(self.outputs[0], lambda t: t.clone().requires_grad_())

        def work() -> None:
            total, _ = loss(student, self.outputs[1], self.batch)
            if total.requires_grad:
                total.backward()

        return work


def _map(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    return replace(
        outputs,
        raw_logits=change(outputs.logits),
        features={name: change(feature) for name, feature in outputs.features.items()},
        parts={name: _map(part, change) for name, part in outputs.parts.items()},
    )


def _rows(outputs: Outputs, rows: int) -> Outputs:
    return _map(outputs, lambda t: t[:rows])


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _extra_memory(work: Callable[[], None]) -> float:
    """Return the peak memory of `work` in MiB beyond what was allocated before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate((nbytes for _, nbytes in changes), initial=0)) / 2**20


def measure(name: str, pair: Pair) -> dict[str, float]:
    """Return the milliseconds of an objective (`ms`), its per cent of a training step (`share`) and its MiB (`mib`)."""
    work = pair.work(pair.loss_of(name))
    memory = _extra_memory(work)
    times, steps = [], []
    for turn in range(REPEATS):
        times.append(_seconds(work))
        if turn < STEPS:
            steps.append(_seconds(pair.step))
    cost = statistics.median(times)
    return {"ms": 1e3 * cost, "share": 100 * cost / statistics.median(steps), "mib": memory}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the named objectives, by default all of them, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    for classes in CLASSES:
        pair = Pair(classes)
        pair.step()
        for name in options.names or [
            entry.name for entry in objectives.available() if "images" in entry.tasks
        ]:
            row = rows.setdefault(name, {"objective": name})
            row |= {f"{key}_{classes}": round(value, 2) for key, value in measure(name, pair).items()}
            print(json.dumps(row), flush=True)
    machine = provenance()
    about = (
        f"Median of {REPEATS} with one thread on {machine['machine']['processor']}, torch {torch.__version__}, "
        f"batch {BATCH}, outputs with the shapes of resnet32x4 -> resnet8x4 at 32 x 32, in float32. The share is that "
        "of the pair's training step, measured in turn. MiB are the peak memory that the objective adds."
    )
    if options.out:
        content = {
            "about": about,
            "classes": list(CLASSES),
            "rows": sorted(rows.values(), key=lambda r: r["objective"]),
        }
        content["provenance"] = {
            **machine,
            "python": platform.python_version(),
            "pid_cpus": len(os.sched_getaffinity(0)),
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
