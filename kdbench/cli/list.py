"""`kdbench list`: the options that can be selected, from conf/, the registries and the teacher store."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from kdbench.core.plugins import conf_dirs
from kdbench.runs.generated_options import option_names
from kdbench.utils.formatting import format_cell, markdown_table
from kdbench.utils.paths import CONF_DIR

GROUPS = (
    "dataset",
    "teacher",
    "student",
    "loss",
    "teacher_loss",
    "objective",
    "model",
    "schedule",
    "trainer",
    "logger",
)


def main(arguments: list[str]) -> int:
    """Print one list, as a table, as Markdown or as JSON."""
    lists = {
        "losses": losses,
        "objectives": objectives,
        "models": models,
        "datasets": datasets,
        "teachers": teachers,
        "tables": tables,
    }
    parser = argparse.ArgumentParser(prog="kdbench list")
    parser.add_argument("what", choices=lists)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON array")
    form.add_argument("--markdown", action="store_true", help="a Markdown table")
    options = parser.parse_args(arguments)
    rows = lists[options.what]()
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.markdown:
        print(markdown_table(rows))
    else:
        _print(rows)
    return 0


def groups() -> str:
    """Return the config groups with their options, for `kdbench --help`."""
    lines = ["Config groups (GROUP=OPTION), and any key of the composed run:"]
    lines += [f"  {group}: {', '.join(option_names(group))}" for group in GROUPS]
    lines.append(
        f"  experiment: {', '.join(_experiments()) or 'none yet; a file experiments/NAME.yaml is experiment=NAME'}"
    )
    return "\n".join(lines)


def losses() -> list[dict[str, Any]]:
    """Describe every loss recipe, with the papers and needs of its objectives."""
    from kdbench.objectives import available

    known = {entry.name: entry for entry in available()}
    return [
        _loss(file, known) for folder in _conf_folders() for file in sorted((folder / "loss").glob("*.yaml"))
    ]


def objectives() -> list[dict[str, Any]]:
    """Describe every objective of the registry."""
    from kdbench.objectives import available

    return [
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(entry).items()}
        for entry in available()
    ]


def _loss(file: Path, known: dict[str, Any]) -> dict[str, Any]:
    recipe = yaml.safe_load(file.read_text())
    named = [
        value for item in recipe.get("defaults", []) if isinstance(item, dict) for value in item.values()
    ]
    entries = [known[name] for name in dict.fromkeys(named) if name in known]
    return {
        "loss": file.stem,
        "objectives": ", ".join(entry.name for entry in entries) or "-",
        "paper": "; ".join(entry.title for entry in entries) or "-",
        "task": ", ".join(_tasks(recipe, entries)),
        "year": ", ".join(str(entry.year) for entry in entries) or "-",
        "arXiv": ", ".join(entry.arxiv for entry in entries if entry.arxiv) or "-",
        "needs": ", ".join(dict.fromkeys(need for entry in entries for need in entry.needs)) or "labels",
        "recipe": _about(file),
    }


def _tasks(recipe: dict[str, Any], entries: list[Any]) -> list[str]:
    """Return the tasks of a recipe: they accept its objectives, and have its view of texts and its policy.

    Tasks that are like another one (`instructions` is like `lm`) are left out.
    """
    from kdbench import tasks
    from kdbench.objectives import declaration

    view = recipe.get("input")
    return [
        task.name
        for task in tasks.available()
        if not task.like
        and all(task.accepts(declaration(entry.name)) for entry in entries)
        and (view is None or view in task.views)
        and not (recipe.get("policy") and task.why_not(tasks.Capability.POLICIES))
    ]


def models() -> list[dict[str, Any]]:
    """Describe every network of kdbench, with its size at 100 classes."""
    from kdbench.models.names import available
    from kdbench.models.registry import create_model

    rows = []
    for name in available():
        model = create_model(name, 100)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append({"model": name, "parameters": parameters, "timm": f"kdbench_{name}"})
    return rows


def datasets() -> list[dict[str, Any]]:
    """Describe every data set."""
    return [
        {"dataset": name, "about": _about(CONF_DIR / "dataset" / f"{name}.yaml")}
        for name in option_names("dataset")
    ]


def teachers() -> list[dict[str, Any]]:
    """Describe every trained teacher, with NLL on test and CMI on the training images in nats, where measured."""
    from kdbench.teachers.store import cards

    columns = ("label_space", "top1", "nll", "cmi", "epoch", "file")
    return [
        {
            "teacher": card.get("teacher", card["model"]),
            "protocol": card.get("protocol") or card.get("imported") or "",
            **{column: card.get(column) for column in columns},
        }
        for card in cards()
    ]


def tables() -> list[dict[str, Any]]:
    """Describe every table by the comment at the top of its grid."""
    from kdbench.tables.definition import tables as grids

    return [{"table": name, "about": _about(file)} for name, file in grids().items()]


def _print(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("none")
        return
    console, columns = Console(), list(rows[0])
    texts = {column: [column, *(format_cell(row[column]) for row in rows)] for column in columns}
    omitted = []
    for column in _OPTIONAL_COLUMNS:
        if column in columns and sum(max(map(len, texts[name])) + 3 for name in columns) >= console.width:
            columns.remove(column)
            omitted.append(column)
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    for place in range(1, len(rows) + 1):
        table.add_row(*(texts[column][place] for column in columns))
    console.print(table)
    if omitted:
        console.print(f"too wide for this terminal: {', '.join(omitted)} (--json and --markdown have them)")


_OPTIONAL_COLUMNS = (
    *(
        "disagreements",
        "high_cost",
        "defaults_from",
        "defaults",
        "owns_predict",
        "depends_on_batch_size",
        "order_dependent",
    ),
    *("couples_rows", "paper", "objectives", "file", "recipe", "formula", "title"),
)
"""Columns that are left out on a narrow terminal, in this order."""


def _about(file: Path) -> str:
    """Return the comment at the top of a configuration file as one line."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(lines)


def _conf_folders() -> list[Path]:
    return [CONF_DIR, *conf_dirs()]


def _experiments() -> list[str]:
    from kdbench.config.build import experiment_files

    return [file.stem for file in experiment_files()]
