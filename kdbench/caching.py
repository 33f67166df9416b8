"""`kdbench cache fill|list|verify|remove`: stored answers of teachers, and what they cost."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kdbench.checks import why_not_stored
from kdbench.config import register
from kdbench.core import RunError
from kdbench.data.module import ImageData
from kdbench.plan import Plan, data_of, plan
from kdbench.strict import command_line_jobs, compose_checked
from kdbench.teacher.cache import CARD, STORAGES, Cache, Sealed
from kdbench.teacher.fill import Filling
from kdbench.teacher.likeliest import LikeliestCache, LikeliestFilling, check_words
from kdbench.teacher.store import home
from kdbench.teacher.views import ViewFilling
from kdbench.text.data import TextData
from kdbench.units import duration
from kdbench.weights import load_teacher, teacher_files


def main(arguments: list[str]) -> int:
    """Do one of the four; 0, or 1 for what went wrong on the way, or 2 for a mistake of the caller."""
    options = _parser().parse_args(arguments)
    try:
        register()
        return int(options.action(options))
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kdbench cache")
    actions = parser.add_subparsers(required=True, metavar="fill|list|verify|remove")
    fill = actions.add_parser("fill", help="store what runs will ask their teacher")
    fill.add_argument("runs", nargs="*", metavar="KEY=VALUE", help="as for kdbench train -m")
    fill.add_argument(
        "--all", action="store_true", help="every view, not only those that these runs will draw"
    )
    fill.add_argument("--storage", choices=STORAGES, default="float16")
    fill.add_argument("--dry-run", action="store_true", help="say the size and the time, write nothing")
    fill.set_defaults(action=_fill)
    actions.add_parser("list", help="what there is").set_defaults(action=_list)
    for name, action, does in (
        ("verify", _verify, "read every byte and compare it with what was sealed"),
        ("remove", _remove, "delete a cache"),
    ):
        one = actions.add_parser(name, help=does)
        one.add_argument("names", nargs="+", metavar="NAME", help="as kdbench cache list shows it")
        one.set_defaults(action=action)
    return parser


# ---- filling


def served_together(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Those of the runs that ask for logits alone, by teacher and data set."""
    groups: dict[str, list[Plan]] = {}
    for planned in plans:
        if not planned.storable:
            continue
        config = planned.config
        teacher = {key: value for key, value in config["teacher"].items() if key != "cache"}
        key = [config["dataset"], teacher, config["precision"] == "fp32"]
        groups.setdefault(json.dumps(key), []).append(planned)
    return list(groups.values())


def filling_for(group: Sequence[Plan], every_view: bool = False, storage: str = "float16") -> Filling:
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
    if isinstance(data, TextData):
        if every_view:
            raise ValueError("--all is for views of images: the training texts are all stored")
        check_words(first.cfg.teacher.top_k, data)
        return LikeliestFilling(teacher, data, storage, top_k=first.cfg.teacher.top_k)
    assert isinstance(data, ImageData)
    if every_view:
        return ViewFilling(teacher, data, storage)
    epochs: dict[int, int] = {}
    for planned in group:
        epochs[planned.cfg.seed] = max(epochs.get(planned.cfg.seed, 0), planned.cfg.trainer.max_epochs)
    drawn = torch.zeros(data.all_views, dtype=torch.bool)
    for seed, most in epochs.items():
        drawn[data.planned_views(seed, most)] = True
    return ViewFilling(teacher, data, storage, drawn.nonzero().flatten())


def _fill(options: argparse.Namespace) -> int:
    jobs = command_line_jobs(["-m", *options.runs])
    plans = [plan(compose_checked("train", job), {}) for job in jobs]
    if not any(planned.storable for planned in plans):
        reasons = {why_not_stored(planned) or "" for planned in plans}
        raise ValueError(f"nothing to store for these runs: {'; '.join(sorted(reasons))}")
    for group in served_together(plans):
        fill(filling_for(group, options.all, options.storage), Console(), options.dry_run)
    return 0


def fill(filling: Filling, console: Console, dry_run: bool = False) -> None:
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
    say(f"{what}{earlier}: {filling.bytes / 1e9:.3f} GB in {filling.folder}, about {duration(seconds)}")
    if dry_run:
        return
    started = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(filling.unit, total=filling.units, completed=done)
        cache = filling.run(lambda units: progress.update(bar, completed=units))
    say(f"sealed {cache.name} after {duration(time.monotonic() - started)}")


# ---- what there is


def folders() -> list[Path]:
    """All caches, sealed or not."""
    return sorted(path for path in (home() / "cache").glob("*/*") if path.is_dir())


def _list(options: argparse.Namespace) -> int:
    for folder in (there := folders()):
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{_name(folder)}  {size / 1e9:.3f} GB, {_state(folder)}")
    if not there:
        print(f"no caches in {home() / 'cache'}")
    return 0


def _state(folder: Path) -> str:
    try:
        cache = _opened(folder)
    except ValueError as error:
        return str(error) if (folder / CARD).is_file() else "not sealed: the command that began it goes on"
    card, rows = cache.card, "tokens" if "top_k" in cache.card else "views"
    by = f"{card['teacher']} ({card['subject']['precision']})"
    return f"{cache.rows:,} {rows} by {by}, sealed {card['started'][:10]}"


def _opened(folder: Path) -> Sealed:
    """The cache in a folder, whatever it holds; ValueError where it is not sealed or a file is not whole."""
    return LikeliestCache(folder) if "top_k" in Sealed(folder).card else Cache(folder)


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _chosen(names: Sequence[str]) -> list[Path]:
    known = {_name(folder): folder for folder in folders()}
    if stray := [name for name in names if name not in known]:
        raise ValueError(f"there is no cache {stray[0]}; possible: {', '.join(known) or 'none'}")
    return [known[name] for name in names]


def _verify(options: argparse.Namespace) -> int:
    wrong = 0
    for folder in _chosen(options.names):
        good = Sealed(folder).verify()
        wrong += not good
        print(f"{_name(folder)}: {'as it was sealed' if good else 'CHANGED since it was sealed; remove it'}")
    return 1 if wrong else 0


def _remove(options: argparse.Namespace) -> int:
    for folder in _chosen(options.names):
        shutil.rmtree(folder)
        print(f"removed {_name(folder)}")
    return 0
