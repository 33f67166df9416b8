"""Match the feature patterns of objectives with the features of two networks."""

import re
import warnings
from collections.abc import Sequence


def match_features(
    objective: str, student: tuple[Sequence[str], Sequence[str]], teacher: tuple[Sequence[str], Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of features that an objective's patterns stand for, of the student and of the teacher.

    If both sides ask for every stage (`stage*`) and one network has more, the deepest ones are paired, with a warning.

    Args:
        objective: The name of the objective, for messages.
        student: The patterns, and the names of the student's features.
        teacher: The same for the teacher.

    Raises:
        ValueError: A network has no feature of a name.
    """
    depths = [_depth(names) for patterns, names in (student, teacher) if any("*" in p for p in patterns)]
    depth = min(depths, default=0)
    if len(depths) == 2 and depths[0] != depths[1] and depth:
        warnings.warn(
            f"{objective}: the student has {depths[0]} stages, the teacher {depths[1]}; "
            f"the deepest {depth} of both are paired",
            stacklevel=2,
        )
    return (
        _matching(objective, "student", *student, depth),
        _matching(objective, "teacher", *teacher, depth),
    )


def _depth(names: Sequence[str]) -> int:
    return sum(re.fullmatch(r"stage\d+", name) is not None for name in names)


def _matching(
    objective: str, side: str, patterns: Sequence[str], names: Sequence[str], depth: int
) -> tuple[str, ...]:
    deepest = _depth(names)
    matches: list[str] = []
    for pattern in patterns:
        stages = range(deepest - depth + 1, deepest + 1) if "*" in pattern else [deepest]
        matching = dict.fromkeys(re.sub(r"stage(\*|-1)", f"stage{stage}", pattern) for stage in stages)
        missing = [name for name in matching if name not in names]
        if missing or not matching:
            raise ValueError(
                f"{objective} needs {', '.join(missing) or pattern} of the {side}, which has the features "
                f"{', '.join(names) or '(none)'}"
            )
        matches += matching
    return tuple(matches)
