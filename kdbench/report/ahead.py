"""Storing the teacher's answers before a table starts, where that costs less than asking it in every run."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from rich.console import Console

from kdbench.caching import fill, fillings
from kdbench.core import RunError
from kdbench.report.running import Batch
from kdbench.teacher.fill import BusyError, Filling
from kdbench.weights import teacher_files

WORTH = 0.8
"""Answers are stored where that takes at most this share of the images: they are rounded, and take room."""


def store_ahead(batches: Sequence[Batch], threads: int, console: Console) -> None:
    """Fill a cache for every teacher whose answers the runs of these processes would ask for clearly more often
    than there are different ones (`WORTH`), with so many threads. The comparison is printed."""
    plans = [cell.planned for batch in batches for cell in batch]
    for filling in fillings([planned for planned in plans if planned.cfg.teacher.get("cache") == "auto"]):
        if filling.found():
            continue
        torch.set_num_threads(threads)
        live, left = images_asked(batches, filling), filling.units - filling.committed()
        name, pays = filling.teacher.name, left <= WORTH * live
        asked = "images" if filling.unit == "views" else filling.unit
        per_view = filling.seconds() / filling.units
        console.print(
            f"{name} would answer {live:,} {asked} in these runs ({_minutes(live * per_view)}), storing takes {left:,} "
            f"({_minutes(left * per_view)}): {'they are stored first' if pays else 'it answers live'}",
            highlight=False,
            soft_wrap=True,
        )
        if pays:
            _fill(filling, console)


def _fill(filling: Filling, console: Console) -> None:
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
        except RunError as error:
            console.print(f"not stored: {error}; the teacher answers live", highlight=False, soft_wrap=True)
            return None


def images_asked(batches: Sequence[Batch], filling: Filling) -> int:
    """How many images the teacher would be shown in training only because nothing is stored: those of processes in
    which every loss would be served (another one asks it live, and then for all)."""
    data, asked = filling.data, 0
    for batch in batches:
        plans = [cell.planned for cell in batch if cell.planned.loss.needs_teacher]
        if (
            plans
            and [*teacher_files(plans[0]).values()] == [*filling.teacher.sources]
            and plans[0].cfg.teacher.get("top_k") == filling.teacher.top_k
            and all(p.storable for p in plans)
        ):
            asked += plans[0].cfg.trainer.max_epochs * data.rows(1, 0, data.steps_per_epoch)
    return asked


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.1f} min"
