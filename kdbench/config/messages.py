"""Messages for mistakes in configurations, with suggestions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra import compose
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_MOST = 24
"""The largest number of names that a message lists in full."""

_LISTS = {
    "loss": "losses",
    "objective": "objectives",
    "teacher": "models",
    "student": "models",
    "dataset": "datasets",
}
"""The argument of `kdbench list` for the options of a group."""

_ELSEWHERE = {
    "gpus": "trainer.devices",
    "lr": "schedule.lr",
    "device": "trainer",
    "bs": "schedule.batch_size",
}
"""Keys of other programs, and the key with this meaning in kdbench."""


def unknown(path: str, key: str, possible: Iterable[Any]) -> str:
    """Return a message for an unknown key, with the nearest and all possible keys.

    Args:
        path: The dotted key.
        key: Its last part.
        possible: The possible keys.
    """
    options = sorted(str(option) for option in possible if option != "_target_")
    close = difflib.get_close_matches(key, options, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown key {path!r}{hint} Possible: {listed(options, key)}"


def listed(options: Sequence[str], near: str) -> str:
    """Return a list of options for a message: all of a few, or of many those that are most similar to `near`."""
    if len(options) <= _MOST:
        return ", ".join(options) or "none"
    nearest = difflib.get_close_matches(near, options, n=5, cutoff=0.0)
    return f"{', '.join(nearest)} and {len(options) - len(nearest)} others"


def explained(error: BaseException, root: str, overrides: Sequence[str]) -> str:
    """Return a message for an error of Hydra or OmegaConf.

    Args:
        error: The error.
        root: The root configuration.
        overrides: The command line.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        close = difflib.get_close_matches(name, error.options, n=1)
        hint = f"; did you mean {group}={close[0]}?" if close else "."
        more = f" (kdbench list {_LISTS[group]})" if group in _LISTS else ""
        return f"there is no {group}={name}{hint} Possible: {listed(error.options, name)}{more}"
    cause = _omegaconf_cause(error)
    if cause is not None and cause.full_key and "Key" in str(cause.msg):
        return _explain_key(cause.full_key, root, overrides)
    return message(cause or error)


def _explain_key(full_key: str, root: str, overrides: Sequence[str]) -> str:
    """Return a message for an unknown key, with keys of the run that is composed without it."""
    from kdbench.config._hydra import hydra_initialized

    kept = [item for item in overrides if item.lstrip("+~").split("=")[0] != full_key]
    parent, _, key = full_key.rpartition(".")
    try:
        with hydra_initialized():
            cfg = compose(config_name=root, overrides=kept)
        section = OmegaConf.select(cfg, parent) if parent else cfg
    except (HydraException, OmegaConfBaseException):
        return f"unknown key {full_key!r}"
    if (elsewhere := _elsewhere(key, cfg)) and not difflib.get_close_matches(
        key, map(str, section or ()), n=1
    ):
        return f"unknown key {full_key!r}; did you mean {' or '.join(elsewhere)}?"
    return unknown(full_key, key, section or [])


def _elsewhere(key: str, cfg: DictConfig) -> list[str]:
    """Return the dotted keys of other sections that end with a key."""
    named = [_ELSEWHERE[key]] if key in _ELSEWHERE else []
    found = [
        path for path in _paths(OmegaConf.to_container(cfg)) if path.rpartition(".")[2] == key and "." in path
    ]
    return (named or found)[:3]


def _paths(node: Any, before: str = "") -> Iterator[str]:
    if not isinstance(node, Mapping):
        return
    for key, child in node.items():
        yield f"{before}{key}"
        yield from _paths(child, f"{before}{key}.")


def _omegaconf_cause(error: BaseException | None) -> OmegaConfBaseException | None:
    while error is not None and not isinstance(error, OmegaConfBaseException):
        error = error.__cause__ or error.__context__
    return error


def message(error: BaseException) -> str:
    """Return the first line of an error, preceded by its key if that is known."""
    key = getattr(error, "full_key", None)
    first = str(getattr(error, "msg", None) or error).strip().splitlines()[0]
    first = re.sub(r"^\w+ raised while resolving interpolation: ", "", first)
    return f"{key}: {first}" if key and key not in first.split(":")[0] else first
