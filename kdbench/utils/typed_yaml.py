"""Read YAML files into dataclasses, strictly and fast (libyaml, without OmegaConf)."""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_typed(kind: type[T], file: Path) -> T:
    """Read a YAML file into a dataclass.

    Args:
        kind: A dataclass whose fields are text, numbers, lists, dictionaries, dataclasses or optional.
        file: The file.

    Raises:
        ValueError: The file is not YAML, or does not fit the dataclass; the message names file and key.
    """
    try:
        content = yaml.load(file.read_text(), _LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    try:
        return typing.cast(T, _convert(kind, content, ""))
    except _MismatchError as error:
        raise ValueError(f"{file}, {error}") from error


class _MismatchError(ValueError):
    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)


def _convert(kind: Any, value: Any, path: str) -> Any:
    """Return `value` as an instance of `kind`; `path` is its key in the file."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (one for one in arguments if one is not type(None))
        return _convert(kind, value, path)
    if dataclasses.is_dataclass(kind):
        return _convert_fields(kind, _expect(dict, value, path), path)
    if origin is list:
        items = enumerate(_expect(list, value, path))
        return [_convert(arguments[0], item, f"{path}[{place}]") for place, item in items]
    if origin is dict:
        entries = _expect(dict, value, path).items()
        return {str(key): _convert(arguments[1], item, _join(path, key)) for key, item in entries}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _expect(kind, value, path)


def _convert_fields(kind: Any, value: dict[Any, Any], path: str) -> Any:
    hints = _hints(kind)
    if unknown := [key for key in value if key not in hints]:
        raise _MismatchError(_join(path, unknown[0]), f"unknown key; possible: {', '.join(hints)}")
    converted = {key: _convert(hints[key], item, _join(path, key)) for key, item in value.items()}
    for field in dataclasses.fields(kind):
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if field.name not in value and not has_default:
            raise _MismatchError(_join(path, field.name), "missing")
    return kind(**converted)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _expect(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _MismatchError(path, f"expected {kind.__name__}, got {value!r}")
    return value


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
