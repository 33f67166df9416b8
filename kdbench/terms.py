"""What the terms of a loss are called, and which weights they may have."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from kdbench.core import Objective

CROSS_ENTROPY = "ce"
"""The term of the labels."""


def check_names(
    weights: Mapping[str, float],
    ramps: Mapping[str, int],
    standardise: Collection[str],
    objectives: Mapping[str, Objective],
) -> None:
    """ValueError where a name is of no term, or a number is none for its term."""
    possible = [CROSS_ENTROPY, *objectives]
    for key, given in (("weights", weights), ("ramps", ramps)):
        if stray := [name for name in given if name not in possible]:
            raise ValueError(f"loss.{key} names {', '.join(stray)}; this loss has {', '.join(possible)}")
    if stray := [name for name in standardise if name not in objectives]:
        raise ValueError(
            f"loss.standardise names {', '.join(stray)}; this loss has {', '.join(objectives) or 'no objective'}"
        )
    for name in standardise:
        if "logits" not in objectives[name].needs or objectives[name].views:
            raise ValueError(
                f"loss.standardise names {name}, which looks at more or other than one view's logits; "
                f"mlkd has a switch of its own (loss=mlkd_lskd)"
            )
    if missing := [name for name in objectives if name not in weights]:
        raise ValueError(f"loss.weights has no weight for {', '.join(missing)}")
    if endless := [name for name, weight in weights.items() if not math.isfinite(weight)]:
        raise ValueError(f"loss.weights.{endless[0]} must be finite, got {weights[endless[0]]}")
    if not any(weights.values()):
        raise ValueError("all weights of the loss are 0: nothing would be learned")
    if bad := [name for name, ramp in ramps.items() if ramp < 1]:
        raise ValueError(f"loss.ramps.{bad[0]} must be at least 1 epoch, got {ramps[bad[0]]}")


def check_weight(weight: float | None, weights: Mapping[str, float]) -> None:
    """Where a recipe has one number for its weight, `weights` must say the same: neither wins over the other."""
    if weight is None or list(weights.values()) == [weight]:
        return
    said = " and ".join(f"loss.weights.{name}={value}" for name, value in weights.items())
    raise ValueError(
        f"loss.weight={weight}, but {said or 'this loss has no objective'}: only recipes such as mcmi have one "
        f"loss.weight, which their loss.weights follow"
    )


def check_dot(dot: float | None, weights: Mapping[str, float]) -> None:
    """DOT is of what the labels say and what something else says."""
    if dot is None:
        return
    if not 0 < dot < 0.5:
        raise ValueError(f"loss.dot must lie in (0, 0.5), got {dot}; loss.dot=null is plain SGD")
    learned = [name for name, weight in weights.items() if weight]
    if CROSS_ENTROPY not in learned or len(learned) < 2:
        raise ValueError(
            f"loss.dot={dot} divides the momentum between ce and the objectives, and the terms with a weight are "
            f"{', '.join(learned)}; give loss.dot=null, or both a weight"
        )
