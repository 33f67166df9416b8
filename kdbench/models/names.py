"""The names of the registered networks."""

import timm

from kdbench.core.plugins import load_networks
from kdbench.models import vision  # noqa: F401 - registers our networks
from kdbench.models.network import PREFIX


def available() -> tuple[str, ...]:
    """The names of the networks that `register` made known, other packages' among them, in natural order."""
    load_networks()
    return tuple(name.removeprefix(PREFIX) for name in timm.list_models(f"{PREFIX}*"))
