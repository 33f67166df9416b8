"""The registry of distillation objectives: the files of this folder and those that other packages offer.

A package offers objectives through the entry-point group `kdbench.objectives` (name = "package.module:Class")
and their yaml files in a folder `conf`. Nothing is imported before it is asked for, torch included.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from kdbench.core.plugins import OBJECTIVES

if TYPE_CHECKING:
    from kdbench.core.objective import Objective

FLAGS = ("couples_rows", "order_dependent", "depends_on_batch_size", "owns_predict")


@dataclass(frozen=True, slots=True)
class Entry:
    """What people ask of an objective; `defaults` holds the parameters that have one."""

    name: str
    title: str
    year: int
    arxiv: str
    formula: str
    needs: tuple[str, ...]
    tasks: tuple[str, ...]
    defaults: dict[str, Any]
    defaults_from: str
    disagreements: tuple[str, ...]
    couples_rows: bool
    order_dependent: bool
    depends_on_batch_size: bool
    owns_predict: bool


def create(name: str, **parameters: Any) -> Objective:
    """The objective of that name. ValueError, naming what is possible, for unknown names and parameters."""
    objective = _load(name)
    _check_parameters(name, objective, parameters)
    return objective(**parameters)


def available() -> list[Entry]:
    """Every objective, ours and other packages', by name. Imports them all."""
    return [_entry(name, _load(name)) for name in sorted({*_own(), *_outside()})]


def _own() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _outside() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    own = _own()
    for entry_point in entry_points(group=OBJECTIVES):
        name = entry_point.name
        if name in own or found.setdefault(name, entry_point).value != entry_point.value:
            rival = "kdbench itself" if name in own else found[name].value
            raise ValueError(f"Objective {name!r} of {entry_point.value} is already taken by {rival}")
    return found


def _load(name: str) -> type[Objective]:
    if name in _own():
        return _class_in(name)
    outside = _outside()
    if name not in outside:
        raise ValueError(_unknown("objective", name, sorted({*_own(), *outside})))
    return _class_of(outside[name])


def _class_in(name: str) -> type[Objective]:
    """The class that bears the file's name, whatever its capitals: `ttm.py` holds `TTM`."""
    module = importlib.import_module(f"{__name__}.{name}")
    classes = {key.lower(): value for key, value in vars(module).items() if isinstance(value, type)}
    return classes[name.replace("_", "")]


def _class_of(entry_point: EntryPoint) -> type[Objective]:
    from kdbench.core.objective import Objective

    where = f"Objective {entry_point.name!r} ({entry_point.value})"
    try:
        loaded = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where} cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Objective) and hasattr(loaded, "paper")):
        raise ValueError(
            f"{where} must be a subclass of kdbench.core.objective.Objective that states its `paper`"
        )
    return loaded


def _check_parameters(name: str, objective: type[Objective], given: dict[str, Any]) -> None:
    known = _parameters(objective)
    for key in given:
        if key not in known:
            raise ValueError(_unknown(f"parameter of {name}", key, list(known)))
    if missing := [key for key, p in known.items() if p.default is p.empty and key not in given]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")


def _parameters(objective: type[Objective]) -> dict[str, inspect.Parameter]:
    """Those with a name of their own: a class without `__init__` shows nn.Module's *args and **kwargs."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(objective).parameters
    return {name: p for name, p in parameters.items() if p.kind not in variadic}


def _unknown(what: str, given: str, possible: list[str]) -> str:
    close = get_close_matches(given, possible, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"Unknown {what}: {given!r}{hint} (possible: {', '.join(possible) or 'none'})"


def _entry(name: str, objective: type[Objective]) -> Entry:
    from kdbench.core.task import tasks_of

    defaults = {key: p.default for key, p in _parameters(objective).items() if p.default is not p.empty}
    said = ("formula", "needs", "defaults_from", "disagreements", *FLAGS)
    about = {key: getattr(objective, key) for key in said}
    paper = objective.paper
    about["tasks"] = tasks_of(objective)
    return Entry(name, paper.title, paper.year, paper.arxiv, defaults=defaults, **about)
