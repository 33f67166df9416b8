"""Fill a cache of teacher answers for planned runs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kdbench.runs.plan import Plan, data_of
from kdbench.runs.weights import load_teacher, teacher_files
from kdbench.teachers.cache.kinds import CACHES
from kdbench.teachers.cache.writer import CacheWriter
from kdbench.utils.formatting import format_duration
from kdbench.utils.paths import home

# ---- filling


def served_together(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Those of the runs that ask for logits alone, by teacher and data set."""
    groups: dict[str, list[Plan]] = {}
    for plan in plans:
        if not plan.storable:
            continue
        config = plan.config
        teacher = {key: value for key, value in config["teacher"].items() if key != "cache"}
        key = [config["dataset"], teacher, config["precision"] == "fp32"]
        groups.setdefault(json.dumps(key), []).append(plan)
    return list(groups.values())


def filling_for(group: Sequence[Plan], every_view: bool = False, storage: str = "float16") -> CacheWriter:
    """What has to be stored to serve runs of one teacher and data set. Loads both, the data anew: the plans may wait.

    every_view: all views there are, not only those that these runs will draw.
    """
    first = replace(group[0], data=data_of(group[0].cfg))
    if first.cfg.threads:
        torch.set_num_threads(first.cfg.threads)
    files, data = teacher_files(first), first.data
    data.setup("fit")
    teacher = load_teacher(first, files)
    assert teacher is not None
    device = torch.device(
        "cuda" if torch.cuda.is_available() and first.cfg.trainer.accelerator != "cpu" else "cpu"
    )
    teacher.to(device)
    data.to(device)
    epochs: dict[int, int] = {}
    for plan in group:
        epochs[plan.cfg.seed] = max(epochs.get(plan.cfg.seed, 0), plan.cfg.trainer.max_epochs)
    return CACHES[first.task.answer_cache].writer(teacher, data, storage, epochs, every_view)


def fill(filling: CacheWriter, console: Console, dry_run: bool = False) -> None:
    """Say what will be stored, and store it, unless a sealed cache has it already."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    what = filling.words
    if cache := filling.found():
        say(f"{what}: they are in {cache.name}")
        return
    done = filling.committed()
    seconds = filling.seconds() * (filling.units - done) / filling.units
    earlier = f", {done:,} of them there from before" if done else ""
    say(
        f"{what}{earlier}: {filling.bytes / 1e9:.3f} GB in {filling.folder}, about {format_duration(seconds)}"
    )
    if dry_run:
        return
    started = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(filling.unit, total=filling.units, completed=done)
        cache = filling.run(lambda units: progress.update(bar, completed=units))
    say(f"sealed {cache.name} after {format_duration(time.monotonic() - started)}")


# ---- what there is


def folders() -> list[Path]:
    """All caches, sealed or not."""
    return sorted(path for path in (home() / "cache").glob("*/*") if path.is_dir())
