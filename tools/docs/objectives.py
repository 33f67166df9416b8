"""docs/objectives.md, written from the registry, the recipes and benchmarks/objectives.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.cli.list import losses
from kdbench.objectives import Entry, available
from kdbench.utils.formatting import markdown_table

HEAD = """# Objectives and losses

Read this page to look up a loss: its formula, the source of its weights, where paper and official code disagree, and
what it costs.

`python scripts/render_objectives.py` writes this page from the registry (`kdbench list objectives --json`), the recipes
in conf/loss and benchmarks/objectives.json; a test fails when it is stale.

Notation: p and q are the softmax of the teacher and of the student (p_T, q_T at temperature T), y the label, N rows,
C classes; f_s and f_t are feature maps or vectors. KL is summed over classes and averaged over rows.
"""

FLAGS = {
    "couples_rows": "couples the rows of a batch (under DDP it sees the rows of all ranks)",
    "order_dependent": "depends on the order of rows",
    "depends_on_batch_size": "depends on the batch size, so a published weight holds for its batch size",
    "owns_predict": "replaces the student's head at test time; its parameters are counted",
}

LIMIT = 10.0
"""Per cent of a training step above which an objective must give a reason, `Objective.high_cost`."""


def page(measured: Mapping[str, Any] | None) -> str:
    """Return docs/objectives.md: the recipes, each objective, and the cost of each.

    Args:
        measured: The content of benchmarks/objectives.json; None leaves the costs out.
    """
    recipes = losses()
    entries = available()
    parts = [HEAD, "## Losses\n", markdown_table([_recipe_row(row) for row in recipes]) + "\n"]
    parts += ["The command line takes any sum of objectives, and each weight by name: see README.\n"]
    parts += ["## Objectives\n", *(_section(entry, recipes) for entry in entries)]
    if measured:
        parts += ["## Time and memory\n", _costs(measured, entries)]
    return "\n".join(parts)


def list_of_losses() -> str:
    """Return the list of all recipes in README, grouped by what they read."""
    rows = losses()
    on_features = [row["loss"] for row in rows if {"features", "pooled"} & set(row["needs"].split(", "))]
    on_text = [row["loss"] for row in rows if "images" not in row["task"].split(", ")]
    on_logits = [row["loss"] for row in rows if row["loss"] not in (*on_features, *on_text, "sum")]
    on_features = [name for name in on_features if name not in on_text]
    groups = (
        ("logits", on_logits),
        ("features and relations, and sums with them", on_features),
        ("text only", on_text),
    )
    return "\n".join(f"* {what}: {', '.join(f'`{name}`' for name in names)}" for what, names in groups)


def _recipe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("loss", "objectives", "task", "arXiv", "needs", "recipe")}


def _section(entry: Entry, recipes: Sequence[Mapping[str, Any]]) -> str:
    link = f", [arXiv:{entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})" if entry.arxiv else ""
    used = [row["loss"] for row in recipes if entry.name in row["objectives"].split(", ")]
    defaults = ", ".join(f"`{key}={value}`" for key, value in entry.defaults.items()) or "none"
    lines = [
        f"### {entry.name}\n",
        f"{entry.title} ({entry.year}{link})\n",
        f"    {entry.formula}\n",
        f"* tasks: {', '.join(entry.tasks)}; needs: {', '.join(entry.needs)}",
        f"* defaults: {defaults}" + (f"; from {entry.defaults_from}" if entry.defaults_from else ""),
        f"* losses: {', '.join(f'`{name}`' for name in used) or 'none'}",
        *(f"* {description}" for flag, description in FLAGS.items() if getattr(entry, flag)),
        *(f"* paper and code: {sentence}" for sentence in entry.disagreements),
    ]
    return "\n".join(lines) + "\n"


def _costs(measured: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    rows = [
        {
            "objective": row["objective"],
            **{
                f"{what}, C = {classes}": f"{row[f'{key}_{classes}']:.1f}"
                for classes in measured["classes"]
                for what, key in (("ms", "ms"), ("% of a step", "share"), ("MiB", "mib"))
            },
        }
        for row in sorted(measured["rows"], key=lambda row: row["objective"])
    ]
    reasons = "\n".join(f"* {entry.name}: {entry.high_cost}." for entry in entries if entry.high_cost)
    return (
        f"{measured['about']} The second view of mlkd is not included: both networks see each image twice.\n\n"
        f"{markdown_table(rows)}\n\nMore than {LIMIT:.0f} % of a step, by definition of the method:\n\n{reasons}\n"
    )


def load_measured(file: Path) -> dict[str, Any] | None:
    """Read the JSON file of a benchmark; None where there is none yet."""
    return json.loads(file.read_text()) if file.is_file() else None
