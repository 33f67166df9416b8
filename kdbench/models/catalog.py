"""Models by name: kdbench's own networks, and `timm/<name>` for everything that timm builds."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

from kdbench.models.checkpoints import load_weights
from kdbench.models.network import PREFIX, available

TIMM = "timm/"


def check_name(name: str) -> None:
    """Raise ValueError, with the nearest names, unless `create_model` can build `name`; builds nothing."""
    if name in available() or (name.startswith(TIMM) and timm.is_model(name.removeprefix(TIMM))):
        return
    known = [TIMM + model for model in timm.list_models()] if name.startswith(TIMM) else list(available())
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case)]
    meant = f"; did you mean {' or '.join(close)}?" if close else "."
    raise ValueError(
        f"There is no model {name!r}{meant} Possible are {', '.join(available())} and timm/<name> for timm's."
    )


def create_model(
    name: str,
    num_classes: int,
    checkpoint: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """An image classifier, initialised from torch's global generator or loaded from a checkpoint.

    name: one of `available()`, or `timm/<name>`. checkpoint: a file that `load_weights` reads.
    options: further arguments of timm's networks, such as `drop_path_rate`; kdbench's own take none.
    Raises ValueError for an unknown name or option, or a file that does not fit.
    """
    check_name(name)
    arguments = dict(options or {})
    ours = sorted(arguments.keys() & {"pretrained", "num_classes", "checkpoint_path"})
    if ours:
        raise ValueError(
            f"options of {name} cannot set {', '.join(ours)}: num_classes and checkpoint say that"
        )
    entry = name.removeprefix(TIMM) if name.startswith(TIMM) else PREFIX + name
    try:
        model: nn.Module = timm.create_model(entry, pretrained=False, num_classes=num_classes, **arguments)
    except TypeError as error:
        raise ValueError(f"{name} does not take the options {arguments}: {error}") from error
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model


def pretrained(name: str, num_classes: int) -> nn.Module:
    """A network of timm's, `timm/<name>`, with the weights that timm has for it, from the hub or its cache.

    ValueError where they are not to be had, or have another number of classes.
    """
    check_name(name)
    if not name.startswith(TIMM):
        raise ValueError(f"{name} has no weights on the hub: only timm/<name> has")
    try:
        model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # whatever hub, network and disk raise
        raise ValueError(f"the weights of {name} are not to be had from the hub: {error}") from error
    if (found := model.num_classes) != num_classes:
        raise ValueError(f"the weights of {name} are for {found} classes, the data have {num_classes}")
    return model
