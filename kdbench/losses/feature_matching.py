"""Which features of two models an objective's patterns stand for."""

import re
import warnings
from collections.abc import Sequence


def match_features(
    objective: str, student: tuple[Sequence[str], Sequence[str]], teacher: tuple[Sequence[str], Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that an objective's patterns stand for, for the student and for the teacher.

    Each side is (patterns, the names it has). Where both sides ask for every stage and one has more, the
    deepest ones are taken, with a warning. ValueError for a side that has nothing of that name.
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
    found: list[str] = []
    for pattern in patterns:
        stages = range(deepest - depth + 1, deepest + 1) if "*" in pattern else [deepest]
        wanted = dict.fromkeys(re.sub(r"stage(\*|-1)", f"stage{stage}", pattern) for stage in stages)
        missing = [name for name in wanted if name not in names]
        if missing or not wanted:
            raise ValueError(
                f"{objective} wants {', '.join(missing) or pattern} of the {side}, which has the features "
                f"{', '.join(names) or '(none)'}"
            )
        found += wanted
    return tuple(found)
