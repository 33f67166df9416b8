"""Knowledge distillation in Python: objectives, distillation of any two modules, runs, and their results.

Importing the package is cheap: each name is loaded when it is first used.

Examples:
    >>> import kdbench
    >>> loss = kdbench.objectives.create("wttm", gamma=0.2)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench import objectives
    from kdbench.core.errors import RunError
    from kdbench.reports.report import load_frame as report
    from kdbench.runs.api import Run, load, train, train_teacher
    from kdbench.runs.distiller import Distiller

__version__ = "0.1.0"

__all__ = [
    "Distiller",
    "Run",
    "RunError",
    "__version__",
    "load",
    "objectives",
    "report",
    "train",
    "train_teacher",
]

_ATTRIBUTES: dict[str, tuple[str, str]] = {
    "Distiller": ("kdbench.runs.distiller", "Distiller"),
    "Run": ("kdbench.runs.api", "Run"),
    "RunError": ("kdbench.core.errors", "RunError"),
    "load": ("kdbench.runs.api", "load"),
    "report": ("kdbench.reports.report", "load_frame"),
    "train": ("kdbench.runs.api", "train"),
    "train_teacher": ("kdbench.runs.api", "train_teacher"),
}
"""Where each lazy attribute is defined: (module, name)."""


def __getattr__(name: str) -> Any:
    if name == "objectives":
        return importlib.import_module("kdbench.objectives")
    if name not in _ATTRIBUTES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _ATTRIBUTES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
