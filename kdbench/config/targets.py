"""Check the `_target_` nodes of a configuration: they may build only known things, with known and fitting arguments."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.config._hydra import locate
from kdbench.config.build import allowed_targets
from kdbench.config.messages import unknown
from kdbench.config.schema import SUPPLIED, TRAINER_OPTIONS

_TRAINER = "lightning.Trainer"


def check_targets(node: Any, path: str = "") -> None:
    """Check every `_target_` node in a configuration.

    Args:
        node: Plain data: mappings, lists and scalars.
        path: The dotted key of the node, for messages.

    Raises:
        ValueError: A target is not allowed or does not exist, a key is no argument of it, or a value has another type
            than its annotation.
    """
    if isinstance(node, list):
        for number, child in enumerate(node):
            check_targets(child, f"{path}[{number}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        _check_call(node, path)
    for key, child in node.items():
        check_targets(child, f"{path}.{key}" if path else str(key))


def parameters(function: Any) -> dict[str, Any]:
    """Return the parameters of a function or class with their annotations.

    `**options: Unpack[Options]` stands for the keys of the typed dictionary `Options`.
    """
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    annotations = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            annotations[name] = hints.get(name, Any)
        elif typing.get_origin(hints.get(name)) is typing.Unpack:
            (options,) = typing.get_args(hints[name])
            annotations |= typing.get_type_hints(options)
    return annotations


def _check_call(node: dict[str, Any], path: str) -> None:
    hints = _annotations(node, path)
    possible = set(hints) - set(SUPPLIED.get(path, ()))
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in possible:
            raise ValueError(unknown(f"{path}.{key}", key, possible))
        if not _fits(value, hints[key]):
            raise ValueError(f"{path}.{key} should be {_describe(hints[key])}, got {value!r}")


def _annotations(node: dict[str, Any], path: str) -> dict[str, Any]:
    target = node["_target_"]
    if not str(target).startswith(allowed_targets()):
        raise ValueError(f"{path}._target_ is {target!r}; allowed are {', '.join(allowed_targets())}")
    if target == _TRAINER and node.keys() <= {"_target_", *TRAINER_OPTIONS}:
        return TRAINER_OPTIONS  # importing Lightning takes three seconds
    try:
        function = locate(target)
        hints = parameters(function)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"{path}._target_: there is no {target!r}") from error
    if not str(function.__module__).startswith(allowed_targets() + ("lightning.",)):
        raise ValueError(f"{path}._target_ is {target!r}, which leads outside {', '.join(allowed_targets())}")
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value fits an annotation; true where this cannot be decided."""
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is typing.Literal:
        return value in arguments
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    # an object of kdbench is built from a section with a `_target_`, never from a plain value
    return not (isinstance(hint, type) and hint.__module__.startswith("kdbench."))


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, type) and hint.__module__.startswith("kdbench."):
        return f"a section with the keys {', '.join(parameters(hint))}"
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint).replace("collections.abc.", "").replace("typing.", "")
