"""Models by name: kdbench's own networks, and `timm/<name>` for everything that timm builds."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

from kdbench.models.checkpoints import load_weights
from kdbench.models.names import available
from kdbench.models.network import PREFIX

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
    options: further arguments of timm's networks, such as `drop_path_rate`, and `pretrained`: `hub` or a file, whose
    weights they start from, without the last layer where that is for other classes; kdbench's own take none.
    Raises ValueError for an unknown name or option, a file that does not fit, or weights that are not to be had.
    """
    check_name(name)
    arguments = dict(options or {})
    ours = sorted(arguments.keys() & {"num_classes", "checkpoint_path"})
    if ours:
        raise ValueError(
            f"options of {name} cannot set {', '.join(ours)}: num_classes and checkpoint say that"
        )
    if source := arguments.pop("pretrained", None):
        return _begun(name, num_classes, "hub" if source is True else str(source), arguments)
    entry = name.removeprefix(TIMM) if name.startswith(TIMM) else PREFIX + name
    try:
        model: nn.Module = timm.create_model(entry, pretrained=False, num_classes=num_classes, **arguments)
    except TypeError as error:
        raise ValueError(f"{name} does not take the options {arguments}: {error}") from error
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model


def _begun(name: str, num_classes: int, source: str, options: Mapping[str, Any]) -> nn.Module:
    """A network of timm's with weights of the hub or of a file, all but a last layer of other classes."""
    _refuse_without_weights(name)
    if source != "hub" and not Path(source).is_file():
        raise ValueError(
            f"options.pretrained={source}: there is no such file; hub asks for timm's own weights"
        )
    more: dict[str, Any] = {} if source == "hub" else {"pretrained_cfg_overlay": {"file": source}}
    entry = name.removeprefix(TIMM)
    try:
        model: nn.Module = timm.create_model(
            entry, pretrained=True, num_classes=num_classes, **more, **options
        )
    except Exception as error:  # whatever hub, network, disk and loading raise
        raise ValueError(f"{name} cannot start from the weights of {source}: {error}") from error
    return model


def _refuse_without_weights(name: str) -> None:
    if not name.startswith(TIMM):
        raise ValueError(f"{name} has no weights on the hub: only timm/<name> has")


def pretrained(name: str, num_classes: int) -> nn.Module:
    """A network of timm's, `timm/<name>`, with the weights that timm has for it, from the hub or its cache.

    ValueError where they are not to be had, or have another number of classes.
    """
    check_name(name)
    _refuse_without_weights(name)
    try:
        model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # whatever hub, network and disk raise
        raise ValueError(f"the weights of {name} are not to be had from the hub: {error}") from error
    if (found := model.num_classes) != num_classes:
        raise ValueError(f"the weights of {name} are for {found} classes, the data have {num_classes}")
    return model
