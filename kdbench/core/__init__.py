"""Types and contracts that every other room shares.

Extensions import from here: `from kdbench.core import Batch, Objective, Outputs, Paper`. Each name is loaded when it is
first used, so that `kdbench.core.errors` and `kdbench.core.plugins` do not bring torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.core.errors import Interrupted, RunError
    from kdbench.core.logits import DenseLogits, Logits, ProjectedLogits, TopKLogits, as_logits
    from kdbench.core.objective import DatasetInfo, ExtraForward, Objective, Paper, Probes
    from kdbench.core.types import IGNORED, Batch, Outputs, Tokens, View

__all__ = [
    "IGNORED",
    "Batch",
    "DatasetInfo",
    "DenseLogits",
    "ExtraForward",
    "Interrupted",
    "Logits",
    "Objective",
    "Outputs",
    "Paper",
    "Probes",
    "ProjectedLogits",
    "RunError",
    "Tokens",
    "TopKLogits",
    "View",
    "as_logits",
]

_MODULES = {
    "errors": ("Interrupted", "RunError"),
    "logits": ("DenseLogits", "Logits", "ProjectedLogits", "TopKLogits", "as_logits"),
    "objective": ("DatasetInfo", "ExtraForward", "Objective", "Paper", "Probes"),
    "types": ("IGNORED", "Batch", "Outputs", "Tokens", "View"),
}
"""The public names of each module of this room."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
