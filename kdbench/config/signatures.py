"""Read classes, defaults and constants of Python files without importing them.

Composing a configuration, `--help` and reports need names and defaults only; importing the modules would load torch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from kdbench.utils.paths import PACKAGE

REQUIRED = "???"
"""The value of an option without a default, as Hydra writes it."""


@cache
def parse(file: Path) -> ast.Module:
    """Parse a Python file."""
    return ast.parse(file.read_text(), str(file))


def constants(file: Path) -> dict[str, Any]:
    """Return the module-level constants of a file that are literals or made of such."""
    values: dict[str, Any] = {}
    for name, node in _assignments(parse(file).body):
        try:
            values[name] = _evaluate(node, values)
        except ValueError:
            continue
    return values


def class_named(file: Path, name: str) -> ast.ClassDef:
    """Return the definition of a class.

    Raises:
        KeyError: The file has no such class.
    """
    for node in parse(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise KeyError(f"{file} has no class {name}")


def class_attribute(target: str, name: str, default: Any = None) -> Any:
    """Return a literal class attribute of a class of kdbench.

    Args:
        target: The class as Hydra's `_target_` names it, e.g. `kdbench.objectives.crd.CRD`.
        name: The attribute.
        default: The result if there is no such class in kdbench, or no such attribute in its body.
    """
    module, _, class_name = target.rpartition(".")
    file = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    if not target.startswith("kdbench.") or not file.is_file():
        return default
    try:
        return class_attributes(file, class_name).get(name, default)
    except KeyError:
        return default


def class_attributes(file: Path, class_name: str) -> dict[str, Any]:
    """Return the class attributes of a class that are literals, or calls with literal arguments (as a tuple of these).

    Raises:
        KeyError: The file has no such class.
    """
    known, attributes = constants(file), {}
    for name, node in _assignments(class_named(file, class_name).body):
        with suppress(ValueError):
            if isinstance(node, ast.Call):
                attributes[name] = tuple(_evaluate(argument, known) for argument in node.args)
            else:
                attributes[name] = _evaluate(node, known)
    return attributes


def parameter_defaults(file: Path, class_name: str) -> dict[str, Any]:
    """Return the parameters of a class's `__init__` with their defaults; `REQUIRED` for those without one.

    Raises:
        KeyError: The file has no such class.
        ValueError: A default is not a literal, and not made of the file's constants.
    """
    for node in class_named(file, class_name).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            known, arguments = constants(file), node.args
            names = [argument.arg for argument in arguments.args[1:]]
            defaults = [None] * (len(names) - len(arguments.defaults)) + list(arguments.defaults)
            pairs = list(zip(names, defaults, strict=True))
            pairs += [
                (one.arg, default)
                for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            ]
            return {
                name: REQUIRED if node is None else _as_yaml(_evaluate(node, known)) for name, node in pairs
            }
    return {}


def registered_names(file: Path) -> list[str]:
    """Return the literal names in the calls `register("NAME", ...)` of a file, decorators included."""
    return [
        node.args[0].value
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "register"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]


def _as_yaml(value: Any) -> Any:
    return [_as_yaml(item) for item in value] if isinstance(value, tuple | list) else value


def _assignments(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in body:
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and node.value is not None:
                yield target.id, node.value


def _evaluate(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """Evaluate a literal expression, in which names may stand for known constants.

    Raises:
        ValueError: It is something else.
    """
    match node:
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Tuple(elts=items) | ast.List(elts=items):
            values = [_evaluate(item, known) for item in items]
            return tuple(values) if isinstance(node, ast.Tuple) else values
        case ast.Dict(keys=keys, values=items) if all(keys):
            return {
                _evaluate(key, known): _evaluate(item, known)
                for key, item in zip(keys, items, strict=True)
                if key
            }
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _evaluate(left, known) / _evaluate(right, known)
    return ast.literal_eval(node)
