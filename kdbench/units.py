"""Times and sizes in words."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """`1.5 h`, `2.0 min`."""
    return _in(seconds, ((86400, "days"), (3600, "h"), (60, "min"), (1, "s")))


def size(amount: float) -> str:
    """Of so many bytes: `1.6 GB`, `104.3 MB`."""
    return _in(amount, ((1e9, "GB"), (1e6, "MB")))


def _in(amount: float, units: Sequence[tuple[float, str]]) -> str:
    unit, name = next((one for one in units if amount >= one[0]), units[-1])
    return f"{amount / unit:.1f} {name}"
