"""What teachers are called: `resnet56`, a variant of it `resnet56@mcmi-0.25`, several together `resnet56+wrn_40_2`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VARIANT, TOGETHER, TIMM = "@", "+", "timm/"


def full_name(network: str, variant: str | None) -> str:
    """A trained network's name in the store."""
    return f"{network}{VARIANT}{variant}" if variant else network


def network_of(name: str) -> str:
    """The network of a full name."""
    return name.partition(VARIANT)[0]


def known_as(teacher: Mapping[str, Any]) -> str:
    """The name, for people, records and tables, of the teacher that a configuration describes."""
    if "members" in teacher:
        return TOGETHER.join(teacher["members"])
    return full_name(teacher["name"], teacher.get("variant"))


def chosen_by(name: str) -> list[str]:
    """The overrides that choose the teacher of that name."""
    if TOGETHER in name:
        return ["teacher=ensemble", f"teacher.members=[{name.replace(TOGETHER, ',')}]"]
    network, _, variant = name.partition(VARIANT)
    return [*network_chosen("teacher", network), *([f"teacher.variant={variant}"] if variant else [])]


def network_chosen(side: str, network: str) -> list[str]:
    """The overrides that choose the network of a side, `teacher` or `student`."""
    family, slash, _ = network.partition("/")
    if slash:  # timm/resnet18, causal/qwen
        return [f"{side}={family}", f"{side}.name={network}"]
    return [f"{side}={network}"]


def trained_by(name: str, init: str, schedule: str | None = None, options: Sequence[str] = ()) -> list[str]:
    """Return the overrides with which `kdbench train-teacher` trains the teacher of that name.

    Args:
        name: The full name of the teacher.
        init: Where a variant starts from: `store` or `shipped`.
        schedule: The schedule of a plain teacher; None for the default of the command.
        options: Further overrides of a plain teacher's network.
    """
    network, _, variant = name.partition(VARIANT)
    words = network_chosen("teacher", network)
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
