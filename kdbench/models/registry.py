"""Image networks by name: registered ones, and `timm/NAME` for every network of timm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kdbench.models.checkpoints import load_weights
from kdbench.models.names import PREFIX, TIMM, check_name, register_networks


def create_model(
    name: str,
    num_classes: int,
    checkpoint: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build an image classifier with random weights (torch's global generator) or from a checkpoint.

    Args:
        name: One of `kdbench.models.names.available()`, or `timm/NAME`.
        num_classes: Number of logits.
        checkpoint: File that `load_weights` reads.
        options: For timm networks: arguments of timm, such as `drop_path_rate`; and `pretrained`, `hub` or a
            file with initial weights. A last layer for another number of classes is not loaded. Registered
            networks take no options.

    Raises:
        ValueError: For an unknown name or option, a checkpoint that does not fit, or weights that cannot be
            loaded.
    """
    check_name(name)
    arguments = dict(options or {})
    reserved = sorted(arguments.keys() & {"num_classes", "checkpoint_path"})
    if reserved:
        raise ValueError(
            f"options of {name} cannot set {', '.join(reserved)}; use the arguments num_classes and checkpoint"
        )
    if source := arguments.pop("pretrained", None):
        return _create_from(name, num_classes, "hub" if source is True else str(source), arguments)
    import timm

    if not name.startswith(TIMM):
        register_networks(name)
    entry = name.removeprefix(TIMM) if name.startswith(TIMM) else PREFIX + name
    try:
        model: nn.Module = timm.create_model(entry, pretrained=False, num_classes=num_classes, **arguments)
    except TypeError as error:
        raise ValueError(f"{name} does not take the options {arguments}: {error}") from error
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model


def create_pretrained(name: str, num_classes: int) -> nn.Module:
    """Build `timm/NAME` with timm's pretrained weights, including its last layer.

    Raises:
        ValueError: If the weights cannot be downloaded or have another number of classes.
    """
    check_name(name)
    _check_is_timm(name)
    import timm

    try:
        model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # hub, network and disk raise many types
        raise ValueError(f"{name}: the weights cannot be loaded from the hub: {error}") from error
    if model.num_classes != num_classes:
        raise ValueError(
            f"{name}: the weights are for {model.num_classes} classes, the data have {num_classes}"
        )
    return model


def _create_from(name: str, num_classes: int, source: str, options: Mapping[str, Any]) -> nn.Module:
    """Build `timm/NAME` with weights of the hub or a file, without a last layer for other classes."""
    _check_is_timm(name)
    if source != "hub" and not Path(source).is_file():
        raise ValueError(
            f"options.pretrained={source}: no such file; pass a file, or hub for timm's own weights"
        )
    import timm

    overlay: dict[str, Any] = {} if source == "hub" else {"pretrained_cfg_overlay": {"file": source}}
    entry = name.removeprefix(TIMM)
    try:
        model: nn.Module = timm.create_model(
            entry, pretrained=True, num_classes=num_classes, **overlay, **options
        )
    except Exception as error:  # hub, network, disk and loading raise many types
        raise ValueError(f"{name} cannot start from the weights of {source}: {error}") from error
    return model


def _check_is_timm(name: str) -> None:
    if not name.startswith(TIMM):
        raise ValueError(f"{name} has no weights on the hub: only timm/<name> has")
