"""The sources of a report: tables by name, run folders and results files."""

from __future__ import annotations

from pathlib import Path

from kdbench.config.messages import unknown
from kdbench.reports.published import published_for
from kdbench.tables.definition import tables
from kdbench.utils.paths import EXPERIMENTS_DIR


def committed_results(table: str) -> Path:
    """Return the path of the results of a table that a checkout or wheel ships."""
    return EXPERIMENTS_DIR / table / "results.jsonl"


class NoRunsError(ValueError):
    """There are no runs of a table, or a table has published numbers but no grid."""

    def __init__(self, table: str, message: str) -> None:
        super().__init__(message)
        self.table = table


def place_of(name: str) -> Path:
    """Return the folder or file to read: for a table its runs here, or else the results that kdbench ships.

    Args:
        name: Name of a table, or a path.

    Raises:
        NoRunsError: A table has neither.
        ValueError: There is no such table or path.
    """
    if name not in tables():
        if not Path(name).exists() and "/" not in name:
            if published_for(name) is not None:
                raise NoRunsError(
                    name, f"{name}: published numbers only; kdbench has no grid to run for them"
                )
            raise ValueError(
                unknown(name, name, tables()).replace("unknown key", "there is no folder and no table")
            )
        return Path(name)
    here, committed = Path("runs") / "tables" / name, committed_results(name)
    for place in (here, committed):
        if place.exists():
            return place
    raise NoRunsError(
        name, f"table {name} has no runs here ({here}); run `kdbench table {name}` or pass run folders"
    )
