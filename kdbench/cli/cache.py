"""`kdbench cache fill|list|verify|remove`: manage the stored outputs of teachers."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kdbench.cli.errors import command
from kdbench.config.command_line import command_line_jobs
from kdbench.config.compose import compose_checked
from kdbench.runs.answer_cache import cache_folders, cache_writer, fill, group_by_answers
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.teachers.cache.kinds import open_cache
from kdbench.teachers.cache.logits import CARD, STORAGES, SealedCache
from kdbench.utils.paths import home


@command
def main(arguments: list[str]) -> int:
    """Run one of the actions; return 1 if a verified cache has changed, else 0."""
    options = _parser().parse_args(arguments)
    register()
    return int(options.action(options))


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


def _fill(options: argparse.Namespace) -> int:
    jobs = command_line_jobs(["-m", *options.runs])
    plans = [make_plan(compose_checked("train", job), {}) for job in jobs]
    if not any(plan.storable for plan in plans):
        reasons = {plan.why_not_stored or "" for plan in plans}
        raise ValueError(f"nothing to store for these runs: {'; '.join(sorted(reasons))}")
    for group in group_by_answers(plans):
        fill(cache_writer(group, options.all, options.storage), Console(), options.dry_run)
    return 0


def _list(options: argparse.Namespace) -> int:
    for folder in (there := cache_folders()):
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{_name(folder)}  {size / 1e9:.3f} GB, {_state(folder)}")
    if not there:
        print(f"no caches in {home() / 'cache'}")
    return 0


def _state(folder: Path) -> str:
    try:
        cache = open_cache(folder)
    except ValueError as error:
        return str(error) if (folder / CARD).is_file() else "not sealed: the command that began it goes on"
    card, rows = cache.card, "tokens" if "top_k" in cache.card else "views"
    by = f"{card['teacher']} ({card['subject']['precision']})"
    return f"{cache.rows:,} {rows} by {by}, sealed {card['started'][:10]}"


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _chosen(names: Sequence[str]) -> list[Path]:
    known = {_name(folder): folder for folder in cache_folders()}
    if stray := [name for name in names if name not in known]:
        raise ValueError(f"there is no cache {stray[0]}; possible: {', '.join(known) or 'none'}")
    return [known[name] for name in names]


def _verify(options: argparse.Namespace) -> int:
    wrong = 0
    for folder in _chosen(options.names):
        good = SealedCache(folder).verify()
        wrong += not good
        print(f"{_name(folder)}: {'as it was sealed' if good else 'CHANGED since it was sealed; remove it'}")
    return 1 if wrong else 0


def _remove(options: argparse.Namespace) -> int:
    for folder in _chosen(options.names):
        shutil.rmtree(folder)
        print(f"removed {_name(folder)}")
    return 0
