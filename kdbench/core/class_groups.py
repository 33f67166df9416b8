"""Groups of classes that a data protocol defines; the mean recall of each is a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASS_GROUPS = ("omitted", "kept", "head", "medium", "tail")
"""Names of the groups: omitted and kept classes, or the head, middle and tail of an imbalanced training set."""


def describe_groups(scores: Mapping[str, Any]) -> str:
    """Return the mean recall of each group in `scores` as text, each preceded by a comma."""
    return "".join(f", {name} classes {scores[name]:.2f} %" for name in CLASS_GROUPS if name in scores)
