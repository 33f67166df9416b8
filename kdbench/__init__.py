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

__version__ = "0.1.0"

__all__ = ["__version__", "objectives"]

_ATTRIBUTES: dict[str, tuple[str, str]] = {}
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
