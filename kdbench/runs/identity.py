"""What of a configuration makes a run another run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.distributed.devices import of_recipe
from kdbench.utils.hashing import digest


def recipe_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved configuration changes weights: not names, paths, logging or hardware."""
    parts = ("dataset", "teacher", "student", "loss", "teacher_loss", "schedule", "seed", "precision")
    recipe = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key in parts
        if (value := config.get(key)) is not None
    }
    for section, key in (
        ("dataset", "path"),
        ("dataset", "eval_batch_size"),
        ("dataset", "readers"),
        ("dataset", "tokenizer"),  # in the hash of the data, by what it does
        ("dataset", "quality_samples"),
        ("teacher", "checkpoint"),
        ("teacher", "checkpoints"),
        ("teacher", "variant"),  # a name; its weights have a hash of their own, as those of `init`
        ("teacher", "init"),
        ("teacher", "cache"),
        ("loss", "pair"),
        ("teacher_loss", "pair"),
    ):
        recipe.get(section, {}).pop(key, None)
    data = recipe.get("dataset") or {}  # what files say is in the hash of the data, where they lie is nothing
    for key in [key for key in ("train", "test") if isinstance(data.get(key), str)]:
        data.pop(key)
    if data.get("further"):
        data["further"] = sorted(data["further"])
    if recipe.get("teacher", {}).get("top_k", 0) is None:
        recipe["teacher"].pop("top_k")  # as before there was such a key
    for side in ("student", "teacher"):
        if "pretrained" in (options := (recipe.get(side) or {}).get("options") or {}):
            recipe[side]["options"] = {**options, "pretrained": True}  # its weights have a hash of their own
    for section in ("loss", "teacher_loss"):
        if section in recipe:
            recipe[section] = _without_later_keys(recipe[section])
    if "schedule" in recipe:
        recipe["schedule"] = _without_idle_algorithm(recipe["schedule"])
    if "dataset" in recipe:
        recipe["dataset"] = _without_idle_protocol(recipe["dataset"])
    if "loss" in recipe and not any(recipe["loss"].get(key) for key in ("objectives", "stage", "policy")):
        recipe["teacher"] = None  # nothing of the teacher enters a loss without objectives
    recipe["epochs_run"] = config["trainer"]["max_epochs"]
    named: dict[str, Any] = _without_module_paths(recipe | of_recipe(config["trainer"]))
    return named


def places_of(config: Mapping[str, Any]) -> list[Any]:
    """Where the files of a run lie, which is no part of its recipe."""
    return [_at(config, place) for place in _PLACES]


def moved(config: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the places of another."""
    result = copy.deepcopy(dict(config))
    for place in _PLACES:
        *path, key = place
        section = _at(result, path)
        if isinstance(section, dict) and key in section:
            section[key] = _at(now, place)
    return result


def _without_module_paths(node: Any) -> Any:
    """Name the classes of kdbench without their modules, so that moving a module leaves every identity as it is."""
    if isinstance(node, Mapping):
        return {key: _without_module_paths(value) for key, value in node.items()} | _class_name(node)
    return [_without_module_paths(item) for item in node] if isinstance(node, list | tuple) else node


def _class_name(node: Mapping[str, Any]) -> dict[str, str]:
    target = str(node.get("_target_", ""))
    return {"_target_": target.rpartition(".")[2]} if target.startswith("kdbench.") else {}


_PLACES = (("dataset", "path"), ("dataset", "tokenizer"), ("student", "options", "pretrained"))


def _at(config: Mapping[str, Any], place: Sequence[str]) -> Any:
    found: Any = config
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


_LATER_KEYS: dict[str, Any] = {
    "standardise": [],
    "stage": None,
    "input": None,
    "policy": None,
    "dot": None,
    "kernel": "torch",
    "beams": 1,
    "negatives_from": "trained",
    "transform": "power",
    "weighting": "power_sum",
}
"""Keys of a loss and of the objectives here that came after the first runs, with the value at which a run is what it
was before them; objectives of other packages may use the same words."""


def _without_later_keys(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    later = _LATER_KEYS if str(node.get("_target_", "")).startswith("kdbench.") else {}
    kept = {key: value for key, value in node.items() if key not in later or value != later[key]}
    return {key: _without_later_keys(value) for key, value in kept.items()}


def _without_idle_algorithm(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """What one algorithm alone looks at says nothing of another; SGD is not named, as in the first runs it was not."""
    idle = ("momentum", "nesterov") if schedule.get("algorithm") == "adamw" else ("algorithm", "betas")
    return {key: value for key, value in schedule.items() if key not in idle}


_SWITCHED_OFF: dict[str, tuple[Any, str]] = {
    "imbalance": (1, "imbalance_seed"),
    "label_noise": (0, "label_noise_seed"),
    "omit_classes": ([], "omit"),
}
"""Options of a data set's protocol: the value that switches each off, and the key that means nothing then."""


def _without_idle_protocol(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What draws nothing and leaves nothing out is as if it were not there, as in the first runs it was not."""
    kept = dict(dataset)
    for key, (off, with_it) in _SWITCHED_OFF.items():
        if kept.get(key, off) == off:
            kept.pop(key, None)
            kept.pop(with_it, None)
    if "omit_classes" in kept:
        kept["omit_classes"] = sorted(kept["omit_classes"], key=str)
    subset = dict(kept.pop("subset", {}))
    if subset.get("mode") == "first":
        subset.pop("seed", None)
    return {**kept, "subset": subset} if subset.get("fraction", 1) < 1 else kept


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
