"""Group runs that may share their batches and their teacher's answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from kdbench.runs.plan import Plan

_PRIVATE = ("student", "loss", "output", "tags", "table_name")
"""Sections in which the members of a cohort may differ, besides the learning rate."""


def cohorts(plans: Sequence[Plan]) -> list[list[Plan]]:
    """Group plans into cohorts, whose students can be trained side by side.

    The members of a cohort differ in student, loss and learning rate only. A run that is there twice is put into two
    cohorts, as it has one folder. Teachers and runs on several devices are trained alone.

    Args:
        plans: The plans of a sweep.

    Returns:
        The cohorts in the order of their first members.
    """
    groups: dict[str, list[Plan]] = {}
    occurrences = Counter[tuple[str, str]]()
    for number, plan in enumerate(plans):
        shared = {key: value for key, value in plan.config.items() if key not in _PRIVATE}
        shared["schedule"] = {key: value for key, value in shared["schedule"].items() if key != "lr"}
        alone = number if plan.trains_teacher or plan.ranks > 1 else None
        group = json.dumps([shared, plan.is_stage, occurrences[plan.key], alone], sort_keys=True)
        occurrences[plan.key] += 1
        groups.setdefault(group, []).append(plan)
    return list(groups.values())
