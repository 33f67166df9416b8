"""The identity of a run: which parts of a configuration make it another run, and which runs belong together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.config.signatures import class_attribute
from kdbench.data.identity import identity_options
from kdbench.distributed.devices import of_recipe
from kdbench.utils.hashing import digest

_SECTIONS = ("dataset", "teacher", "student", "loss", "teacher_loss", "schedule", "seed", "precision")


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything in a resolved configuration that changes the weights: no names, paths, logging or hardware.

    The files of data and weights enter the identity of a run by hashes of their own.
    """
    recipe = {key: config[key] for key in _SECTIONS if config.get(key) is not None}
    if "dataset" in recipe:
        recipe["dataset"] = identity_options(recipe["dataset"])
    if "teacher" in recipe:
        recipe["teacher"] = _teacher(recipe["teacher"])
    for side in ("student", "teacher"):
        options = (recipe.get(side) or {}).get("options") or {}
        if "pretrained" in options:
            recipe[side] = {**recipe[side], "options": {**options, "pretrained": True}}
    for section in ("loss", "teacher_loss"):
        if section in recipe:
            loss = {key: value for key, value in recipe[section].items() if key != "pair"}
            recipe[section] = _without_neutral_options(loss)
    if "schedule" in recipe:
        recipe["schedule"] = _schedule(recipe["schedule"])
    if "loss" in recipe and not any(recipe["loss"].get(key) for key in ("objectives", "stage", "policy")):
        recipe["teacher"] = None  # a loss without objectives does not use the teacher
    recipe["epochs_run"] = config["trainer"]["max_epochs"]
    without_paths: dict[str, Any] = _without_module_paths(recipe | of_recipe(config["trainer"]))
    return without_paths


def _teacher(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where the weights come from: they have a hash of their own."""
    neutral = {"checkpoint", "checkpoints", "variant", "init", "cache"}
    if teacher.get("top_k") is None:
        neutral.add("top_k")
    return {key: value for key, value in teacher.items() if key not in neutral}


def _schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options of the optimiser that is not used; SGD, the default, is not named."""
    unused = ("momentum", "nesterov") if schedule.get("algorithm") == "adamw" else ("algorithm", "betas")
    return {key: value for key, value in schedule.items() if key not in unused}


def _without_neutral_options(node: Any) -> Any:
    """Leave out options that a class of the loss declares as neutral at their value (`neutral_options`)."""
    if not isinstance(node, Mapping):
        return node
    neutral = class_attribute(str(node.get("_target_", "")), "neutral_options", {})
    kept = {key: value for key, value in node.items() if key not in neutral or value != neutral[key]}
    return {key: _without_neutral_options(value) for key, value in kept.items()}


def _without_module_paths(node: Any) -> Any:
    """Name the classes of kdbench without their modules, so that moving a module leaves every identity as it is."""
    if isinstance(node, Mapping):
        return {key: _without_module_paths(value) for key, value in node.items()} | _class_name(node)
    return [_without_module_paths(item) for item in node] if isinstance(node, list | tuple) else node


def _class_name(node: Mapping[str, Any]) -> dict[str, str]:
    target = str(node.get("_target_", ""))
    return {"_target_": target.rpartition(".")[2]} if target.startswith("kdbench.") else {}


# ---- places of files


_PLACES = (("dataset", "path"), ("dataset", "tokenizer"), ("student", "options", "pretrained"))


def places_of(config: Mapping[str, Any]) -> list[Any]:
    """Return the paths of the files that a run reads; they are not part of its recipe."""
    return [_at(config, place) for place in _PLACES]


def moved(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration with the paths of another."""
    result = copy.deepcopy(dict(config))
    for place in _PLACES:
        *path, key = place
        section = _at(result, path)
        if isinstance(section, dict) and key in section:
            section[key] = _at(other, place)
    return result


def _at(config: Mapping[str, Any], place: Sequence[str]) -> Any:
    node: Any = config
    for key in place:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


# ---- runs that belong together


Record = Mapping[str, Any]

Flat = dict[str, str]
"""A configuration with dotted keys (`dataset.padding`) and its values as text."""

RUN = "run-"
"""Variant prefix of teachers that are themselves trained runs; the start of that run's `series_key` follows, so that
students of such teachers form a series, too."""


def recipe_without(record: Record, *sections: str) -> dict[str, Any] | None:
    """Return the recipe of a run apart from its seed and some sections; None if the record has no configuration."""
    if "config" not in record:
        return None
    recipe = recipe_of(record["config"])
    for section in ("seed", *sections):
        recipe.pop(section, None)
    return recipe


def setting_key(record: Record, *sections: str) -> list[Any]:
    """Return a key that is equal for runs that differ only in their seed and some sections of the recipe."""
    recipe = recipe_without(record, *sections)
    if recipe is None:
        recipe = {"epochs": record["results"]["last"]["epoch"]}
    return [record["names"]["dataset"], record["names"].get("student"), record.get("protocol", ""), recipe]


def series_key(record: Record) -> str:
    """Return a hash that is equal for all seeds of one data set, teacher, student, recipe and protocol.

    Teachers are compared by their weights. In a chain of runs, where each seed has a teacher of its own seed, they are
    compared by name, which holds the `series_key` of the run that trained them.
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
    """Flatten nested mappings into one with dotted keys."""
    if not isinstance(value, Mapping):
        return {name: str(value)}
    parts = (flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}
