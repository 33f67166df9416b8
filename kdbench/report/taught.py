"""What the page of a table says of its teachers."""

from __future__ import annotations

import statistics
from typing import Any

from kdbench.metrics import in_groups
from kdbench.report.published import networks
from kdbench.report.rows import mean_and_std
from kdbench.tasks import TASKS


def teacher_lines(records: list[dict[str, Any]]) -> list[str]:
    """A line for each teacher of the finished runs."""
    named: dict[str, dict[Any, dict[str, Any]]] = {}
    for record in records:
        if record["state"] == "done" and "teacher" in record:
            named.setdefault(record["teacher"]["name"], {})[record["teacher"].get("hash")] = record
    return [_teacher(name, list(known.values())) for name, known in named.items()]


def _teacher(name: str, records: list[dict[str, Any]]) -> str:
    """What is known of a teacher; in a chain it is another one for each seed."""
    teacher, task = records[0]["teacher"], TASKS[records[0].get("task", "images")]
    scores = [record["teacher"][task.metric] for record in records]
    taught = f" ({teacher['taught']})" if "taught" in teacher else ""
    if len(scores) > 1:
        known = f" (one for each seed: {mean_and_std(scores)})"
    else:
        known = f"{in_groups(teacher)}{_spread(teacher)}"
    known += f"; {teacher['epoch']} epochs" if "epoch" in teacher else ""
    known += _gap(name, records[0]["names"].get("dataset", ""), statistics.fmean(scores))
    protocol = f"; trained under: {teacher['protocol']}" if teacher.get("protocol") else ""
    return f"Teacher {name}{taught}: {statistics.fmean(scores):.2f} % test {task.title}{known}{protocol}."


def _gap(name: str, dataset: str, score: float) -> str:
    """What is published of the network of this name, and how far that is from this one."""
    known = networks(dataset)
    if known is None or name not in known.top1:
        return ""
    there = known.top1[name]
    return f"; published {there:.2f} % after {known.epochs} epochs, here {score - there:+.2f}"


def _spread(teacher: dict[str, Any]) -> str:
    """Cross-entropy and CMI, of teachers that kdbench has trained."""
    said = {"nll": "cross-entropy on test", "cmi": "CMI on the training images"}
    return "".join(f", {words} {teacher[key]:.4f} nats" for key, words in said.items() if key in teacher)
