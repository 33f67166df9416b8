"""The tasks that an objective serves, by its declarations. Needs no torch."""

from __future__ import annotations

from typing import Protocol

TENSOR_NEEDS = frozenset({"logits", "labels", "epoch"})
"""What an objective may need and still be called with plain tensors."""


class Traits(Protocol):
    """The declarations of an objective or its class; see `kdbench.core.objective.Objective`."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The values that it reads: `logits`, `labels`, `features`, ..."""

    @property
    def views(self) -> tuple[str, ...]:
        """Additional views of each row."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it is made for; empty if it names none."""


def is_row_wise(objective: Traits) -> bool:
    """Whether an objective reads logits and labels row by row only, and is not made for certain tasks."""
    return not (objective.tasks or objective.views) and set(objective.needs) <= TENSOR_NEEDS


def tasks_of(objective: Traits) -> tuple[str, ...]:
    """Return the built-in tasks of an objective: those it names, else images, and text if it works row by row."""
    return objective.tasks or (("images", "lm") if is_row_wise(objective) else ("images",))
