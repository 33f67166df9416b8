"""Configuration nodes of the networks (config groups `model`, `student`, `teacher`), without importing any.

The names and default options are read from the source files: from their constant `NETWORKS`, or from their calls
`register("NAME", ...)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdbench.config.signatures import constants, registered_names
from kdbench.core.plugins import MODELS, source_files

_FOLDER = Path(__file__).parent
_VISION = "kdbench.models.registry.create_model"
_CAUSAL = "kdbench.models.language.causal_lm.causal_lm"
_T5 = "kdbench.models.language.t5.t5"


def configurations() -> dict[str, dict[str, Any]]:
    """Return the node of each network by name, networks of other packages included."""
    return {**teachers(), **_language(_T5)}


def teachers() -> dict[str, dict[str, Any]]:
    """Return the nodes of the networks that can be teachers.

    The teacher of a T5 is the language model whose rationales are in the data, so no T5 is among them.
    """
    vision = {name: {"_target_": _VISION, "name": name} for name in vision_names()}
    return {**vision, **_language(_CAUSAL)}


def vision_names(others: bool = True) -> Iterator[str]:
    """Yield the names of the image networks.

    Args:
        others: Whether to include those of other packages.
    """
    files = sorted((_FOLDER / "vision").glob("*.py"))
    for file in [*files, *(source_files(MODELS).values() if others else ())]:
        yield from constants(file).get("NETWORKS", ())
        yield from registered_names(file)


def _language(target: str) -> dict[str, dict[str, Any]]:
    file = _FOLDER / "language" / f"{target.split('.')[-2]}.py"
    networks = constants(file)["NETWORKS"]
    return {
        name: {"_target_": target, "name": name} | ({"options": options} if options else {})
        for name, options in networks.items()
    }
