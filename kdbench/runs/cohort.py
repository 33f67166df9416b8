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
    for number, planned in enumerate(plans):
        common = {key: value for key, value in planned.config.items() if key not in OWN}
        common["schedule"] = {key: value for key, value in common["schedule"].items() if key != "lr"}
        alone = number if planned.trains_teacher or planned.ranks > 1 else None
        key = json.dumps([common, planned.is_stage, met[identity(planned)], alone], sort_keys=True)
        met[identity(planned)] += 1
        groups.setdefault(key, []).append(planned)
    return list(groups.values())


def identity(planned: Plan) -> tuple[str, str]:
    """What tells a run from the others of a cohort, and its folder from theirs."""
    return planned.title, recipe_hash(planned)
