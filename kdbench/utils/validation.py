"""Checks of numeric and categorical arguments, with one wording for all error messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Literal, TypeVar

Closed = Literal["both", "left", "right", "neither"]
Value = TypeVar("Value")


def check_positive(owner: str, /, **values: float) -> None:
    """Raise ValueError unless all values are positive and finite.

    Args:
        owner: Class or function that takes the arguments; the message begins with it.
        **values: Arguments by name, as in `check_positive("KD", temperature=temperature)`.

    Raises:
        ValueError: `KD: temperature must be positive and finite, got 0`.
    """
    _check(owner, values, lambda value: 0 < value < math.inf, "positive and finite")


def check_non_negative(owner: str, /, **values: float) -> None:
    """Raise ValueError unless all values are finite and at least 0; arguments as in `check_positive`."""
    _check(owner, values, lambda value: 0 <= value < math.inf, "finite and not negative")


def check_finite(owner: str, /, **values: float) -> None:
    """Raise ValueError unless all values are finite; arguments as in `check_positive`."""
    _check(owner, values, math.isfinite, "finite")


def check_at_least(owner: str, minimum: float, /, **values: float) -> None:
    """Raise ValueError unless all values are finite and at least `minimum`.

    Args:
        owner: Class or function that takes the arguments; the message begins with it.
        minimum: Smallest allowed value.
        **values: Arguments by name.

    Raises:
        ValueError: `CC: dimension must be finite and at least 1, got 0`.
    """
    _check(owner, values, lambda value: minimum <= value < math.inf, f"finite and at least {minimum:g}")


def check_fraction(owner: str, /, *, closed: Closed = "both", **values: float) -> None:
    """Raise ValueError unless all values are in [0, 1].

    Args:
        owner: Class or function that takes the arguments; the message begins with it.
        closed: Ends of the interval that are allowed themselves: "left" means [0, 1).
        **values: Arguments by name.

    Raises:
        ValueError: `CRD: momentum must be in [0, 1), got 1.0`.
    """
    check_between(owner, 0, 1, closed=closed, **values)


def check_between(
    owner: str, low: float, high: float, /, *, closed: Closed = "both", **values: float
) -> None:
    """Raise ValueError unless all values are in the interval from `low` to `high`.

    Args:
        owner: Class or function that takes the arguments; the message begins with it.
        low: Lower end of the interval.
        high: Upper end of the interval.
        closed: Ends of the interval that are allowed themselves: "left" means [low, high).
        **values: Arguments by name.

    Raises:
        ValueError: `CTKD: theta must be in [-10, 10], got 11`.
    """
    has_low, has_high = closed in ("both", "left"), closed in ("both", "right")

    def is_inside(value: float) -> bool:
        return low < value < high or (has_low and value == low) or (has_high and value == high)

    interval = f"{'[' if has_low else '('}{low:g}, {high:g}{']' if has_high else ')'}"
    _check(owner, values, is_inside, f"in {interval}")


def check_choice(owner: str, possible: Collection[str], /, **values: str) -> None:
    """Raise ValueError unless all values are among the possible ones.

    Args:
        owner: Class or function that takes the arguments; the message begins with it.
        possible: Allowed values, in the order in which the message lists them.
        **values: Arguments by name.

    Raises:
        ValueError: `CRD: positives must be exact or relax, got 'some'`.
    """
    *first, last = possible
    _check(owner, values, lambda value: value in possible, f"{', '.join(first)} or {last}" if first else last)


def _check(owner: str, values: dict[str, Value], is_valid: Callable[[Value], bool], requirement: str) -> None:
    for name, value in values.items():
        if not is_valid(value):
            shown = repr(value) if isinstance(value, str) else value
            raise ValueError(f"{owner}: {name} must be {requirement}, got {shown}")
