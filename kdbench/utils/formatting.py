"""Times and sizes in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def duration(seconds: float) -> str:
    """`1.5 h`, `2.0 min`."""
    return _in(seconds, ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")))


def size(amount: float) -> str:
    """Of so many bytes: `1.6 GB`, `104.3 MB`."""
    return _in(amount, ((1e9, "GB"), (1e6, "MB")))


def _in(amount: float, units: Sequence[tuple[float, str]]) -> str:
    unit, name = next((one for one in units if amount >= one[0]), units[-1])
    return f"{amount / unit:.1f} {name}"


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    if not rows:
        return "(none)"
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *(f"| {' | '.join(map(_text, row.values()))} |" for row in rows)])


def _text(value: Any) -> str:
    """Per cents with two decimals, and what is smaller with three."""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
