"""The registry of distillation objectives: the files of this folder and those that other packages offer.

`create` makes an objective by name, `available` describes them all, and every public loss function of this folder can
be imported from here: `from kdbench.objectives import wttm_loss`. Nothing is imported before it is used, not even
torch.

A package offers objectives through the entry-point group `kdbench.objectives` (name = "package.module:Class").
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.config.signatures import REQUIRED, class_attributes, parameter_defaults, parse
from kdbench.core.plugins import OBJECTIVES, source_files
from kdbench.core.traits import tasks_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kdbench.core.objective import Objective

FLAGS = ("couples_rows", "order_dependent", "depends_on_batch_size", "owns_predict")
"""The boolean class attributes of `Objective` that an `Entry` repeats."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The description of an objective.

    Attributes:
        name: The name that `create` and the configuration group `objective` take.
        title: The title of the paper.
        year: The year of the paper.
        arxiv: The arXiv identifier of the paper; empty where it has none.
        formula: The term in one line of plain text.
        needs: What the objective reads: `logits`, `labels`, `features`, `index`, ...
        tasks: The names of the tasks that it serves.
        defaults: The parameters that have a default, with it.
        defaults_from: The source of the defaults.
        high_cost: Why the method takes more than 10 % of a training step; empty where it does not.
        disagreements: Where the paper, the official code and kdbench differ, one sentence each.
        couples_rows: Whether the value is not a mean of per-row values.
        order_dependent: Whether the order of the rows changes the value.
        depends_on_batch_size: Whether the value depends on the batch size.
        owns_predict: Whether a head of the objective replaces the student's classifier.
    """

    name: str
    title: str
    year: int
    arxiv: str
    formula: str
    needs: tuple[str, ...]
    tasks: tuple[str, ...]
    defaults: dict[str, Any]
    defaults_from: str
    high_cost: str
    disagreements: tuple[str, ...]
    couples_rows: bool
    order_dependent: bool
    depends_on_batch_size: bool
    owns_predict: bool


def create(name: str, **parameters: Any) -> Objective:
    """Create an objective by name.

    An objective on logits can be called with tensors at once: `loss(student_logits, teacher_logits)`, and
    `loss(student_logits, teacher_logits, target)` where it needs labels. For one on features or with learnable parts
    use `kdbench.Distiller`.

    Args:
        name: One of the names of `available()`.
        **parameters: The parameters of the objective; those without a default are required.

    Returns:
        The objective, a `torch.nn.Module` that returns a scalar averaged over rows.

    Raises:
        ValueError: The name or a parameter is unknown, a parameter is missing, or a value is out of range. The message
            names what is possible.

    Examples:
        >>> loss = create("wttm", gamma=0.2)
        >>> value = loss(student_logits, teacher_logits)
    """
    objective = objective_class(name)
    _check_parameters(name, objective, parameters)
    return objective(**parameters)


@dataclass(frozen=True, slots=True)
class Declaration:
    """The declarations of an objective's class; see `kdbench.core.objective.Objective`.

    Attributes:
        needs: The values that it reads.
        views: Additional views of each row.
        tasks: The tasks that it is made for; empty if it names none.
        attributes: All class attributes by name; `paper` is (title, year, arxiv).
    """

    needs: tuple[str, ...]
    views: tuple[str, ...]
    tasks: tuple[str, ...]
    attributes: Mapping[str, Any]


@cache
def declaration(name: str) -> Declaration:
    """Return what an objective declares. Those of this folder are read from their files, without importing torch.

    Raises:
        ValueError: The name is unknown, or an objective of another package cannot be imported.
    """
    if name in _files():
        file = Path(__path__[0]) / f"{name}.py"
        base = class_attributes(Path(__path__[0]).parent / "core" / "objective.py", "Objective")
        attributes = base | class_attributes(file, _class_name_in(file))
    else:
        objective = objective_class(name)
        attributes = {key: getattr(objective, key) for key in dir(objective) if not key.startswith("__")}
        paper = objective.paper
        attributes["paper"] = paper.title, paper.year, paper.arxiv
    return Declaration(attributes["needs"], attributes["views"], attributes["tasks"], attributes)


def available() -> list[Entry]:
    """Return the descriptions of all objectives, sorted by name.

    Returns:
        One entry for each objective of kdbench and of other installed packages.

    Raises:
        ValueError: An objective of another package has a name that is taken, or cannot be imported.

    Examples:
        >>> [entry.name for entry in available() if "features" in entry.needs]
        ['ab', 'at', 'catkd', ...]
    """
    return [_entry(name) for name in names()]


def names() -> list[str]:
    """Return the names of all objectives, sorted. Imports none of them."""
    return sorted({*_files(), *_entry_points()})


@cache
def configurations() -> dict[str, dict[str, Any]]:
    """Return the node of each objective in the config group `objective`, read from the signatures; imports none.

    An objective of another package whose defaults are not literals has none: the package brings a YAML file.
    """
    nodes = {}
    for name, file, class_name, module in _sources():
        with suppress(KeyError, ValueError):
            defaults = parameter_defaults(file, class_name)
            nodes[name] = {"_target_": f"{module}.{class_name}", **defaults}
    return nodes


def _sources() -> Iterator[tuple[str, Path, str, str]]:
    """Yield (name, file, class, module) of every objective."""
    for name in sorted(_files()):
        file = Path(__path__[0]) / f"{name}.py"
        yield name, file, _class_name_in(file), f"{__name__}.{name}"
    points = _entry_points()
    for name, file in source_files(OBJECTIVES).items():
        yield name, file, points[name].attr, points[name].module


def _class_name_in(file: Path) -> str:
    """Return the name of the class after which a file is named, ignoring case: `TTM` in `ttm.py`."""
    classes = (node.name for node in parse(file).body if isinstance(node, ast.ClassDef))
    return next(name for name in classes if name.lower() == file.stem.replace("_", ""))


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective.

    Raises:
        ValueError: The name is unknown, or an objective of another package cannot be imported.
    """
    if name in _files():
        return _class_in(name)
    outside = _entry_points()
    if name not in outside:
        raise ValueError(_unknown("objective", name, sorted({*_files(), *outside})))
    return _class_of(outside[name])


@cache
def loss_functions() -> dict[str, str]:
    """Return the pure loss functions of this folder: the name of each and the module that defines it.

    Raises:
        ValueError: Two modules define a function of the same name.
    """
    modules: dict[str, str] = {}
    for module in sorted(_files()):
        source = (Path(__path__[0]) / f"{module}.py").read_text(encoding="utf-8")
        for function in re.findall(r"^def ([a-z]\w*_loss)\(", source, flags=re.MULTILINE):
            if modules.setdefault(function, module) != module:
                raise ValueError(f"{function} is defined in {modules[function]}.py and in {module}.py")
    return modules


def __getattr__(name: str) -> Callable[..., Tensor]:
    if not name.endswith("_loss") or name not in loss_functions():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(importlib.import_module(f"{__name__}.{loss_functions()[name]}"), name)
    globals()[name] = function
    return function  # type: ignore[no-any-return]


def __dir__() -> list[str]:
    return sorted({*globals(), *loss_functions()})


def _files() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _entry_points() -> dict[str, EntryPoint]:
    """Return the entry points of other packages by name; ValueError for a name that is taken."""
    points: dict[str, EntryPoint] = {}
    files = _files()
    for point in entry_points(group=OBJECTIVES):
        name = point.name
        if name in files or points.setdefault(name, point).value != point.value:
            owner = "kdbench itself" if name in files else points[name].value
            raise ValueError(f"Objective {name!r} of {point.value} is already taken by {owner}")
    return points


def _class_in(name: str) -> type[Objective]:
    """Return the class named after a file, ignoring case: `ttm.py` holds `TTM`."""
    module = importlib.import_module(f"{__name__}.{name}")
    classes = {key.lower(): value for key, value in vars(module).items() if isinstance(value, type)}
    return classes[name.replace("_", "")]


def _class_of(point: EntryPoint) -> type[Objective]:
    from kdbench.core.objective import Objective

    source = f"Objective {point.name!r} ({point.value})"
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{source} cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Objective) and hasattr(loaded, "paper")):
        raise ValueError(f"{source} must be a subclass of kdbench.core.Objective with a `paper`")
    return loaded


def _check_parameters(name: str, objective: type[Objective], parameters: dict[str, Any]) -> None:
    known = _parameters(objective)
    for key in parameters:
        if key not in known:
            raise ValueError(_unknown(f"parameter of {name}", key, list(known)))
    if missing := [key for key, p in known.items() if p.default is p.empty and key not in parameters]:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")


def _parameters(objective: type[Objective]) -> dict[str, inspect.Parameter]:
    """Return the named parameters: a class without `__init__` shows the *args and **kwargs of nn.Module."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(objective).parameters
    return {name: p for name, p in parameters.items() if p.kind not in variadic}


def _unknown(what: str, name: str, possible: list[str]) -> str:
    close = get_close_matches(name, possible, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"Unknown {what}: {name!r}{hint} (possible: {', '.join(possible) or 'none'})"


def _entry(name: str) -> Entry:
    declared = declaration(name)
    attributes = declared.attributes
    title, year, arxiv = (*attributes["paper"], "")[:3]
    keys = ("formula", "needs", "defaults_from", "high_cost", "disagreements", *FLAGS)
    defaults = configurations()[name] if name in _files() else _class_defaults(name)
    return Entry(
        name,
        title,
        year,
        arxiv,
        defaults={key: value for key, value in defaults.items() if key != "_target_" and value != REQUIRED},
        tasks=tasks_of(declared),
        **{key: attributes[key] for key in keys},
    )


def _class_defaults(name: str) -> dict[str, Any]:
    parameters = _parameters(objective_class(name))
    return {key: p.default for key, p in parameters.items() if p.default is not p.empty}
