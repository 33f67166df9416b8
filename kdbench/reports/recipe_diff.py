"""In what a run's recipe departs from the one that a table has for its place: it keeps scores from being compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from kdbench.config.build import load_yaml
from kdbench.config.compose import Composer
from kdbench.runs.identity import Flat, flat, recipe_of
from kdbench.tables.grid import load_table, overrides_of, tables
from kdbench.teachers.names import VARIANT, trained_by
from kdbench.utils.hashing import canonical
from kdbench.utils.paths import CONF_DIR

MOST = 4
"""Departures that are named; the others are counted."""

_TOLD_ELSEWHERE = ("seed", "epochs_run", "schedule.epochs", "teacher", "student.name")
"""Epochs and protocols are compared before; a teacher is what its own score says."""
_OF_THE_PROTOCOL = (
    "subset",
    "omit",
    "omit_classes",
    "imbalance",
    "imbalance_seed",
    "label_noise",
    "label_noise_seed",
)


def departures(config: Mapping[str, Any], table: str, pair: str, loss: str) -> str:
    """The keys whose values in a run's configuration are others than in the table's grid, with both, in words.

    Nothing where there is no such table, or it cannot say what it would run for that pair and loss. A key that the
    configuration, of an older version, does not have is not compared.
    """
    expected = _expected(table, pair, loss)
    if expected is None:
        return ""
    own = _compared(config)
    if own.get("dataset._target_") != expected.get("dataset._target_"):
        own = {key: value for key, value in own.items() if not key.startswith("dataset.")}
    words = [
        f"{key}={value}, not {expected.get(key, 'set')}"
        for key, value in own.items()
        if value != expected.get(key)
    ]
    return "; ".join(words[:MOST] + ([f"{len(words) - MOST} more"] if len(words) > MOST else []))


@cache
def _expected(table: str, pair: str, loss: str) -> Flat | None:
    if table not in tables():
        return None
    try:
        loaded = load_table(table, [])
        first = next(iter(loaded.variants or {"": []}))
        cfg = _composer()(overrides_of(loaded, pair, first, loss, loaded.seeds[0]))
    except ValueError:  # no network or loss of that name
        return None
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return _compared(config)


def variant_epochs(teacher: str) -> int | None:
    """For how many epochs a variant of that name is trained where a table trains it; None for what is no variant of
    ours, whose own score beside the published network says what it is."""
    words = trained_by(teacher, "store") if VARIANT in teacher else []
    schedule = [word.removeprefix("schedule=") for word in words if word.startswith("schedule=")]
    if not schedule:
        return None
    return int(load_yaml(CONF_DIR / "schedule" / f"{schedule[0]}.yaml")["epochs"])


@cache
def _composer() -> Composer:
    from kdbench.runs.hydra_setup import register

    register()
    return Composer("train")


def _compared(config: Mapping[str, Any]) -> Flat:
    recipe = canonical(recipe_of(config))
    recipe["dataset"] = {
        key: value for key, value in recipe.get("dataset", {}).items() if key not in _OF_THE_PROTOCOL
    }
    return {
        key: value
        for key, value in flat(recipe).items()
        if not any(key == told or key.startswith(f"{told}.") for told in _TOLD_ELSEWHERE)
    }
