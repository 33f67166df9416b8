"""The names of the registered networks."""

import timm

from kdbench.core.plugins import load_networks
from kdbench.models import vision  # noqa: F401 - importing registers the networks
from kdbench.models.network import PREFIX


def available() -> tuple[str, ...]:
    """Return the names of all registered networks, including those of other packages, in natural order."""
    load_networks()
    return tuple(name.removeprefix(PREFIX) for name in timm.list_models(f"{PREFIX}*"))
