"""Names of image networks. timm is imported only where a name is not one of kdbench's own: it takes 0.6 s."""

from __future__ import annotations

import difflib
from functools import cache

from kdbench.core.plugins import load_networks
from kdbench.models.configurations import vision_names

PREFIX = "kdbench_"
"""Prefix of registered networks in timm's registry."""

TIMM = "timm/"
"""Prefix of the names of timm's networks."""


def available() -> tuple[str, ...]:
    """Return the names of all registered networks, including those of other packages, in natural order."""
    import timm

    register_networks("")
    return tuple(name.removeprefix(PREFIX) for name in timm.list_models(f"{PREFIX}*"))


def register_networks(name: str) -> None:
    """Register the networks of kdbench in timm, and those of other packages if `name` is none of kdbench's.

    Raises:
        ValueError: The networks of another package are needed and cannot be imported.
    """
    from kdbench.models import vision  # noqa: F401 - importing registers the networks

    if name not in _own_names():
        load_networks()


def check_name(name: str) -> None:
    """Check that `create_model` can build a network; builds nothing.

    Raises:
        ValueError: There is no such network. The message has the nearest names.
    """
    if name in _own_names() or name in _names_of_other_packages():
        return
    import timm

    if name in available() or (name.startswith(TIMM) and timm.is_model(name.removeprefix(TIMM))):
        return
    known = [TIMM + model for model in timm.list_models()] if name.startswith(TIMM) else list(available())
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case)]
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    raise ValueError(
        f"There is no model {name!r}{hint} Possible are {', '.join(available())} and timm/<name> for timm's."
    )


@cache
def _own_names() -> frozenset[str]:
    return frozenset(vision_names(others=False))


@cache
def _names_of_other_packages() -> frozenset[str]:
    return frozenset(vision_names()) - _own_names()
