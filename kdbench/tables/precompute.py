"""Precompute the teacher's answers for a table where that costs less than computing them in every run."""

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
"""Answers, which are rounded and need space, are stored if this takes at most this share of the live forward passes."""


def precompute_answers(batches: Sequence[Batch], threads: int, console: Console) -> None:
    """Store the answers of every teacher for which this needs at most `WORTH` of the live forward passes.

    Args:
        batches: The processes of the table.
        threads: CPU threads of the teacher.
        console: Where the comparison is printed.
    """
    plans = [cell.plan for batch in batches for cell in batch]
    for group in group_by_answers([plan for plan in plans if plan.cfg.teacher.get("cache") == "auto"]):
        try:
            writer = cache_writer(group)
        except ValueError as error:  # each run will say it
            console.print(f"not stored: {error}", highlight=False, soft_wrap=True)
            continue
        if writer.find_existing():
            continue
        torch.set_num_threads(threads)
        live, left = live_images(batches, writer, group), writer.units - writer.committed_units()
        name, pays = writer.teacher.name, left <= WORTH * live
        if not live:
            text = (
                f"{name} answers live: every process has a run that asks it for more than stored answers have"
            )
            console.print(text, highlight=False, soft_wrap=True)
            continue
        asked = "images" if writer.unit == "views" else writer.unit
        per_view = writer.seconds() / writer.units
        takes = [f"about {format_duration(units * per_view)}" for units in (live, left)]
        console.print(
            f"{name} would answer {live:,} {asked} in these runs ({takes[0]}), storing takes {left:,} ({takes[1]}): "
            f"{'they are stored first' if pays else 'it answers live'}",
            highlight=False,
            soft_wrap=True,
        )
        if pays:
            _fill(writer, console)


def _fill(writer: CacheWriter, console: Console) -> None:
    """Fill a cache, or wait for another process that does; after an error the teacher answers live."""
    has_printed = False
    while True:
        try:
            return fill(writer, console)
        except BusyError as error:
            if not has_printed:
                console.print(f"waiting: {error}", highlight=False, soft_wrap=True)
            has_printed = True
            time.sleep(2.0)
        except (RunError, RuntimeError, OSError) as error:  # a full disk, a card without room, a damaged file
            console.print(f"not stored: {error}; the teacher answers live", highlight=False, soft_wrap=True)
            return None


def live_images(batches: Sequence[Batch], writer: CacheWriter, served: Sequence[Plan]) -> int:
    """Return the number of images that the teacher answers live only because nothing is stored.

    These are the images of processes in which stored answers serve every loss. In others, one loss needs the live
    teacher, which then answers for all.
    """
    data, asked, known = writer.data, 0, set(map(id, served))
    for batch in batches:
        plans = [cell.plan for cell in batch if cell.plan.loss.needs_teacher]
        if plans and all(id(one) in known for one in plans):
            asked += plans[0].cfg.trainer.max_epochs * data.rows(1, 0, data.steps_per_epoch)
    return asked
