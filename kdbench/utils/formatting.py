"""Durations, sizes and tables as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def format_duration(seconds: float) -> str:
    """Return a duration in its largest fitting unit, such as `1.5 h` or `2.0 min`."""
    return _with_unit(seconds, ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")))


def format_bytes(count: float) -> str:
    """Return a number of bytes in MB or GB (powers of ten), such as `104.3 MB`."""
    return _with_unit(count, ((1e9, "GB"), (1e6, "MB")))


def _with_unit(amount: float, units: Sequence[tuple[float, str]]) -> str:
    factor, name = next((unit for unit in units if amount >= unit[0]), units[-1])
    return f"{amount / factor:.1f} {name}"


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table whose columns are the keys of the first row; `(none)` without rows."""
    if not rows:
        return "(none)"
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *(f"| {' | '.join(map(format_cell, row.values()))} |" for row in rows)])


def format_cell(value: Any) -> str:
    """Return a table cell: floats from 10 with two decimals, smaller ones with three; `-` for None."""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
