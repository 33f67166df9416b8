"""The command line of runs: kdbench's short forms, and the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from kdbench.config._hydra import parse_arguments, split_sweep
from kdbench.config.build import companions

_COMPANION_GROUPS = {
    "train": ("student", "teacher", "loss", "schedule"),
    "train_teacher": ("teacher", "schedule"),
}
"""The groups in which a data set may choose options (conf/companions.yaml), by command."""

_RUN_AS_TEACHER = "teacher=run:"


def expand_short_forms(arguments: Sequence[str], root: str) -> list[str]:
    """Write a command line in Hydra's own terms.

    `teacher=run:FOLDER` and `student=timm/NAME` become an option of a group and a key of it. A data set adds the
    options that conf/companions.yaml names for it, in groups that the command line does not choose.

    Args:
        arguments: The command line.
        root: The root configuration: `train`, `train_teacher`, `evaluate` or `analyze`.

    Raises:
        ValueError: A short form has several values, or a group is not one of this command.
    """
    expanded = _companion_overrides(arguments, _COMPANION_GROUPS.get(root, ()))
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group == "teacher" and "run:" in value and "," in value:
            raise ValueError(
                f"{argument}: a sweep over runs that teach is teacher=run teacher.checkpoint=FOLDER,FOLDER"
            )
        if root == "train_teacher" and group in ("loss", "student"):
            raise ValueError(
                f"{argument}: a teacher's loss is teacher_loss=, and the network that is trained teacher="
            )
        if value.startswith("timm/") and group in ("teacher", "student", "model") and "," not in value:
            expanded += [f"{group}=timm", f"{group}.name={value}"]
        elif argument.startswith(_RUN_AS_TEACHER):
            expanded += ["teacher=run", f"teacher.checkpoint={argument.removeprefix(_RUN_AS_TEACHER)}"]
        else:
            expanded.append(argument)
    return expanded


def command_line_jobs(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job that a command line asks for; none for `--help` and the like."""
    options = parse_arguments(arguments)
    if options.help or options.hydra_help or options.shell_completion or options.info:
        return []
    if not options.multirun:
        return [list(options.overrides)]
    return split_sweep(parse_overrides(options.overrides))


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides of Hydra's grammar.

    Raises:
        HydraException: One is malformed.
    """
    return [_parse(override) for override in overrides]


@lru_cache(maxsize=10_000)
def _parse(override: str) -> Override:
    (parsed,) = OverridesParser.create().parse_overrides([override])
    return parsed


def refuse_sweep(overrides: Sequence[Override], root: str) -> None:
    """Check that no key has several values, for a single run.

    Raises:
        ValueError: One has.
    """
    for override in overrides:
        if override.is_sweep_override():
            command = root.replace("_", "-")
            raise ValueError(
                f"{override.input_line}: several values are a sweep, which needs -m: kdbench {command} -m ..."
            )


def _companion_overrides(arguments: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return the options that the data sets on a command line choose, where all data sets of a sweep agree."""
    chosen = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    options = [companions(name) for name in chosen.get("dataset", "").split(",")]
    if "student" not in groups:
        options = [
            one | {"schedule": one["teacher_schedule"]} if "teacher_schedule" in one else one
            for one in options
        ]
    common = [item for item in options[0].items() if all(item in other.items() for other in options)]
    return [f"{group}={option}" for group, option in common if group in groups and group not in chosen]
