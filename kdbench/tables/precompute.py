"""Storing the teacher's answers before a table starts, where that costs less than asking it in every run."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from rich.console import Console

from kdbench.core.errors import RunError
from kdbench.runs.answer_cache import cache_writer, fill, group_by_answers
from kdbench.runs.plan import Plan
from kdbench.tables.processes import Batch
from kdbench.teachers.cache.writer import BusyError, CacheWriter
from kdbench.utils.formatting import format_duration

WORTH = 0.8
"""Answers are stored where that takes at most this share of the images: they are rounded, and take room."""


def store_ahead(batches: Sequence[Batch], threads: int, console: Console) -> None:
    """Fill a cache for every teacher whose answers the runs of these processes would ask for clearly more often
    than there are different ones (`WORTH`), with so many threads. The comparison is printed."""
    plans = [cell.plan for batch in batches for cell in batch]
    for group in group_by_answers([plan for plan in plans if plan.cfg.teacher.get("cache") == "auto"]):
        try:
            filling = cache_writer(group)
        except ValueError as error:  # each run will say it
            console.print(f"not stored: {error}", highlight=False, soft_wrap=True)
            continue
        if filling.find_existing():
            continue
        torch.set_num_threads(threads)
        live, left = images_asked(batches, filling, group), filling.units - filling.committed_units()
        name, pays = filling.teacher.name, left <= WORTH * live
        if not live:
            text = (
                f"{name} answers live: every process has a run that asks it for more than stored answers have"
            )
            console.print(text, highlight=False, soft_wrap=True)
            continue
        asked = "images" if filling.unit == "views" else filling.unit
        per_view = filling.seconds() / filling.units
        takes = [f"about {format_duration(units * per_view)}" for units in (live, left)]
        console.print(
            f"{name} would answer {live:,} {asked} in these runs ({takes[0]}), storing takes {left:,} ({takes[1]}): "
            f"{'they are stored first' if pays else 'it answers live'}",
            highlight=False,
            soft_wrap=True,
        )
        if pays:
            _fill(filling, console)


def _fill(filling: CacheWriter, console: Console) -> None:
    """Fill it, or wait until whoever is at it has; where it cannot be done, the teacher answers live."""
    said = False
    while True:
        try:
            return fill(filling, console)
        except BusyError as error:
            if not said:
                console.print(f"waiting: {error}", highlight=False, soft_wrap=True)
            said = True
            time.sleep(2.0)
        except (RunError, RuntimeError, OSError) as error:  # a full disk, a card without room, a damaged file
            console.print(f"not stored: {error}; the teacher answers live", highlight=False, soft_wrap=True)
            return None


def images_asked(batches: Sequence[Batch], filling: CacheWriter, served: Sequence[Plan]) -> int:
    """How many images the teacher would be shown in training only because nothing is stored: those of processes in
    which every loss would be served (another one asks it live, and then for all)."""
    data, asked, known = filling.data, 0, set(map(id, served))
    for batch in batches:
        plans = [cell.plan for cell in batch if cell.plan.loss.needs_teacher]
        if plans and all(id(one) in known for one in plans):
            asked += plans[0].cfg.trainer.max_epochs * data.rows(1, 0, data.steps_per_epoch)
    return asked
