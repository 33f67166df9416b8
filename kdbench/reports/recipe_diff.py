"""Differences between the recipes of runs and of a table; scores of different recipes are not compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from kdbench.config.build import load_yaml
from kdbench.config.compose import Composer
from kdbench.runs.identity import Flat, flat, recipe_of
from kdbench.tables.definition import load_table, overrides_of, tables
from kdbench.teachers.names import VARIANT_SEPARATOR, training_overrides
from kdbench.utils.hashing import canonical
from kdbench.utils.paths import CONF_DIR

MOST_DIFFERENCES = 4
"""Differences that are named; the others are counted."""

_COMPARED_ELSEWHERE = ("seed", "epochs_run", "schedule.epochs", "teacher", "student.name")
"""Keys left out here: epochs and protocols are compared separately, and a teacher is judged by its own score."""

_PROTOCOL_KEYS = (
    "subset",
    "omit",
    "omit_classes",
    "imbalance",
    "imbalance_seed",
    "label_noise",
    "label_noise_seed",
)


def recipe_difference(config: Mapping[str, Any], table: str, pair: str, loss: str) -> str:
    """Return the recipe keys in which a run differs from a table's grid, with both values, as text.

    Keys that `config` lacks, because an older version wrote it, are not compared.

    Args:
        config: Configuration of the run.
        table: Name of the table.
        pair: `teacher:student`.
        loss: Name of the loss.

    Returns:
        Empty where nothing differs, and where the table does not exist or cannot run that pair and loss.
    """
    expected = _expected(table, pair, loss)
    if expected is None:
        return ""
    own = _comparable(config)
    if own.get("dataset._target_") != expected.get("dataset._target_"):
        own = {key: value for key, value in own.items() if not key.startswith("dataset.")}
    differences = [
        f"{key}={value}, not {expected.get(key, 'set')}"
        for key, value in own.items()
        if value != expected.get(key)
    ]
    more = [f"{len(differences) - MOST_DIFFERENCES} more"] if len(differences) > MOST_DIFFERENCES else []
    return "; ".join(differences[:MOST_DIFFERENCES] + more)


@cache
def _expected(table: str, pair: str, loss: str) -> Flat | None:
    if table not in tables():
        return None
    try:
        loaded = load_table(table, [])
        first = next(iter(loaded.variants or {"": []}))
        cfg = _composer()(overrides_of(loaded, pair, first, loss, loaded.seeds[0]))
    except ValueError:  # no such network or loss
        return None
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return _comparable(config)


def variant_epochs(teacher: str) -> int | None:
    """Return the number of epochs for which a table would train a variant of this name.

    Returns:
        None for a teacher that is not one of our variants: its own score tells how good it is.
    """
    overrides = training_overrides(teacher, "store") if VARIANT_SEPARATOR in teacher else []
    schedule = [one.removeprefix("schedule=") for one in overrides if one.startswith("schedule=")]
    if not schedule:
        return None
    return int(load_yaml(CONF_DIR / "schedule" / f"{schedule[0]}.yaml")["epochs"])


@cache
def _composer() -> Composer:
    from kdbench.runs.hydra_setup import register

    register()
    return Composer("train")


def _comparable(config: Mapping[str, Any]) -> Flat:
    recipe = canonical(recipe_of(config))
    recipe["dataset"] = {
        key: value for key, value in recipe.get("dataset", {}).items() if key not in _PROTOCOL_KEYS
    }
    return {
        key: value
        for key, value in flat(recipe).items()
        if not any(key == name or key.startswith(f"{name}.") for name in _COMPARED_ELSEWHERE)
    }
