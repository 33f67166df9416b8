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


def group_by_answers(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Group the runs whose answers can be stored by teacher and data set."""
    groups: dict[str, list[Plan]] = {}
    for plan in plans:
        if not plan.storable:
            continue
        config = plan.config
        teacher = {key: value for key, value in config["teacher"].items() if key != "cache"}
        key = [config["dataset"], teacher, config["precision"] == "fp32"]
        groups.setdefault(json.dumps(key), []).append(plan)
    return list(groups.values())


def cache_writer(group: Sequence[Plan], every_view: bool = False, storage: str = "float16") -> CacheWriter:
    """Return the writer of a cache that serves runs of one teacher and data set. Loads both.

    Args:
        group: One group of `group_by_answers`.
        every_view: Store all possible views instead of those that these runs draw.
        storage: Number format of the cache.

    Raises:
        ValueError: The teacher is missing, or the storage is not possible.
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


def fill(writer: CacheWriter, console: Console, dry_run: bool = False) -> None:
    """Print what will be stored, and store it, unless a sealed cache has it already.

    Args:
        writer: The writer of the cache.
        console: Where to print.
        dry_run: Only print.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    what = writer.description
    if cache := writer.find_existing():
        say(f"{what}: they are in {cache.name}")
        return
    done = writer.committed_units()
    seconds = writer.seconds() * (writer.units - done) / writer.units
    earlier = f", {done:,} of them there from before" if done else ""
    say(f"{what}{earlier}: {writer.bytes / 1e9:.3f} GB in {writer.folder}, about {format_duration(seconds)}")
    if dry_run:
        return
    started = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(writer.unit, total=writer.units, completed=done)
        cache = writer.run(lambda units: progress.update(bar, completed=units))
    say(f"sealed {cache.name} after {format_duration(time.monotonic() - started)}")


def cache_folders() -> list[Path]:
    """Return the folders of all caches, sealed or not."""
    return sorted(path for path in (home() / "cache").glob("*/*") if path.is_dir())
