"""Which runs may share their batches and their teacher's answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from kdbench.runs.plan import Plan, recipe_hash

OWN = ("student", "loss", "output", "tags", "table_name")
"""What each member of a cohort may have for itself, beside its learning rate; all else is shared."""


def cohorts(plans: Sequence[Plan]) -> list[list[Plan]]:
    """The plans in groups that can be trained side by side, in the order of their first members.

    A run that is there twice comes twice, one after the other: it has one folder. Teachers are trained alone, and so
    is what has several devices.
    """
    groups: dict[str, list[Plan]] = {}
    met = Counter[tuple[str, str]]()
    for number, plan in enumerate(plans):
        common = {key: value for key, value in plan.config.items() if key not in OWN}
        common["schedule"] = {key: value for key, value in common["schedule"].items() if key != "lr"}
        alone = number if plan.trains_teacher or plan.ranks > 1 else None
        key = json.dumps([common, plan.is_stage, met[identity(plan)], alone], sort_keys=True)
        met[identity(plan)] += 1
        groups.setdefault(key, []).append(plan)
    return list(groups.values())


def identity(plan: Plan) -> tuple[str, str]:
    """What tells a run from the others of a cohort, and its folder from theirs."""
    return plan.title, recipe_hash(plan)
