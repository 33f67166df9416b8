"""Runs that differ in nothing but their seed: what their records have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.recipe import recipe_of
from kdbench.results import digest

Record = Mapping[str, Any]

Flat = dict[str, str]
"""A configuration as `dataset.padding` and the like, with its values as text."""

RUN = "run-"
"""What the variant of a teacher begins with that is itself the network of a run: behind it the start of that run's
`sibling_key`, so that the students of such teachers are siblings, too."""


def recipe_without(record: Record, *sections: str) -> dict[str, Any] | None:
    """The recipe of a run apart from its seed and these sections; None where the record has no configuration."""
    if "config" not in record:
        return None
    recipe = recipe_of(record["config"])
    for section in ("seed", *sections):
        recipe.pop(section, None)
    return recipe


def setting_key(record: Record, *sections: str) -> list[Any]:
    """What two runs have in common whose difference lies in their seed and these sections of the recipe alone."""
    recipe = recipe_without(record, *sections)
    said = recipe if recipe is not None else {"epochs": record["results"]["last"]["epoch"]}
    return [record["names"]["dataset"], record["names"].get("student"), record.get("protocol", ""), said]


def sibling_key(record: Record) -> str:
    """The same for all seeds of one data set, teacher, student, recipe and protocol.

    A teacher is the same by its weights, but one that is a run's network by what it has in common with its own
    siblings, which its name says, where its seed is the student's: in a chain each seed has a teacher of its own.
    """
    own = ["recipe", "answers"]
    teacher = record.get("teacher") or {}
    if f"@{RUN}" in record["names"]["teacher"] and teacher.get("seed", object()) == record["seed"]:
        own.append("teacher")
    hashes = {name: value for name, value in record["hashes"].items() if name not in own}
    known = {} if "config" in record else {"weights": (record.get("teacher") or {}).get("file_hash")}
    if (every := record.get("config", {}).get("evaluate_every", 1)) != 1:
        known["evaluate_every"] = every  # the best of few epochs is not the best of many
    return digest([record["names"], setting_key(record), hashes, known])


def flat(value: Any, name: str = "") -> Flat:
    """Nested mappings as one, with dots in the names."""
    if not isinstance(value, Mapping):
        return {name: str(value)}
    parts = (flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}
