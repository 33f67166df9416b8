"""Names of teachers: `resnet56`, its variant `resnet56@mcmi-0.25`, the ensemble `resnet56+wrn_40_2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VARIANT_SEPARATOR, ENSEMBLE_SEPARATOR, TIMM = "@", "+", "timm/"


def full_name(network: str, variant: str | None) -> str:
    """Return the name of a trained network in the store."""
    return f"{network}{VARIANT_SEPARATOR}{variant}" if variant else network


def network_of(name: str) -> str:
    """Return the network of a full name."""
    return name.partition(VARIANT_SEPARATOR)[0]


def display_name(teacher: Mapping[str, Any]) -> str:
    """Return the name in records and tables of the teacher that a configuration section describes."""
    if "members" in teacher:
        return ENSEMBLE_SEPARATOR.join(teacher["members"])
    return full_name(teacher["name"], teacher.get("variant"))


def teacher_overrides(name: str) -> list[str]:
    """Return the overrides that choose a teacher by its full name."""
    if ENSEMBLE_SEPARATOR in name:
        return ["teacher=ensemble", f"teacher.members=[{name.replace(ENSEMBLE_SEPARATOR, ',')}]"]
    network, _, variant = name.partition(VARIANT_SEPARATOR)
    return [*network_overrides("teacher", network), *([f"teacher.variant={variant}"] if variant else [])]


def network_overrides(side: str, network: str) -> list[str]:
    """Return the overrides that choose the network of a side, `teacher` or `student`."""
    family, slash, _ = network.partition("/")
    if slash:  # timm/resnet18, causal/qwen
        return [f"{side}={family}", f"{side}.name={network}"]
    return [f"{side}={network}"]


def training_overrides(
    name: str, init: str, schedule: str | None = None, options: Sequence[str] = ()
) -> list[str]:
    """Return the overrides for `kdbench train-teacher` to train a teacher.

    Args:
        name: The full name of the teacher.
        init: Where a variant starts from: `store` or `shipped`.
        schedule: The schedule of a plain teacher; None for the default of the command.
        options: Further overrides of a plain teacher's network.
    """
    network, _, variant = name.partition(VARIANT_SEPARATOR)
    words = network_overrides("teacher", network)
    kind, _, weight = variant.partition("-")
    if not variant:
        return [*words, *options, *([f"schedule={schedule}"] if schedule else [])]
    if kind == "mcmi" and _is_number(weight):
        return [
            *words,
            "teacher_loss=mcmi",
            f"teacher_loss.weight={weight}",
            f"teacher.init={init}",
            "schedule=mcmi20",
        ]
    return [*words, f"teacher.variant={variant}", "..."]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
