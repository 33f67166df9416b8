"""The documentation of the objectives, written from the registry, the recipes and a measured table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.cli.list import losses
from kdbench.objectives import Entry, available
from kdbench.utils.formatting import markdown_table

HEAD = """# Objectives and losses

Written by `python scripts/render_objectives.py` from the registry (`kdbench list objectives --json`), from
conf/loss and from benchmarks/objectives.json; a test fails when it is stale.

Notation: p and q are the softmax of the teacher and of the student (p_T, q_T at temperature T), y the label, N rows,
C classes; f_s and f_t are feature maps or vectors. KL is summed over classes and averaged over rows.
"""

FLAGS = {
    "couples_rows": "couples the rows of a batch (under DDP it sees the rows of all ranks)",
    "order_dependent": "depends on the order of rows",
    "depends_on_batch_size": "depends on the batch size, so a published weight holds for its batch size",
    "owns_predict": "replaces the student's head at test time; its parameters are counted",
}

HEAVY = {
    "cmkd": "soft ranks compare all pairs of classes: nothing at C = 100, a million pairs a row at C = 1000",
    "ft": "a frozen auto-encoder on the teacher's map and a translator, six and three 3x3 convolutions",
    "ofd": "a 1x1 convolution with BatchNorm on every stage",
    "r2kd": "a second, pruned teacher answers each batch; soft ranks as in cmkd",
    "reviewkd": "a chain of 3x3 convolutions up to the largest map: more multiplications than the student itself has",
    "vid": "three 1x1 convolutions on every stage",
    "vitkd": "3x3 convolutions on a map of tokens",
}
"""What takes more than LIMIT per cent of a training step, and why it must."""

LIMIT = 10.0


def page(measured: Mapping[str, Any] | None) -> str:
    """docs/objectives.md: the recipes, each objective, and how long each takes where that was measured."""
    recipes = losses()
    entries = available()
    parts = [HEAD, "## Losses\n", markdown_table([_short(row) for row in recipes]) + "\n"]
    parts += ["Any sum can be said on the command line, and every weight changed by name: see README.\n"]
    parts += ["## Objectives\n", *(_section(entry, recipes) for entry in entries)]
    if measured:
        parts += ["## Time and memory\n", _speed(measured)]
    return "\n".join(parts)


def names() -> str:
    """All recipes by what they look at, for README."""
    rows = losses()
    on_maps = [row["loss"] for row in rows if {"taps", "pooled"} & set(row["needs"].split(", "))]
    on_text = [row["loss"] for row in rows if "images" not in row["task"].split(", ")]
    on_logits = [row["loss"] for row in rows if row["loss"] not in (*on_maps, *on_text, "sum")]
    on_maps = [name for name in on_maps if name not in on_text]
    listed = (
        ("logits", on_logits),
        ("features and relations, and sums with them", on_maps),
        ("text alone", on_text),
    )
    return "\n".join(f"* {what}: {', '.join(f'`{loss}`' for loss in those)}" for what, those in listed)


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
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
        *(f"* {words}" for flag, words in FLAGS.items() if getattr(entry, flag)),
        *(f"* paper and code: {sentence}" for sentence in entry.disagreements),
    ]
    return "\n".join(lines) + "\n"


def _speed(measured: Mapping[str, Any]) -> str:
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
    heavy = "\n".join(f"* {name}: {why}." for name, why in HEAVY.items())
    return (
        f"{measured['about']} mlkd's second view is not in it: both networks answer twice.\n\n"
        f"{markdown_table(rows)}\n\n"
        f"More than {LIMIT:.0f} % of a step, by definition of the method:\n\n{heavy}\n"
    )


def load_measured(file: Path) -> dict[str, Any] | None:
    """benchmarks/objectives.json, or None where it was not made yet."""
    return json.loads(file.read_text()) if file.is_file() else None
