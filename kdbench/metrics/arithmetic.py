"""The value of an arithmetic expression that a model wrote, without running it as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

LONGEST = 200
"""Characters; no expression of the data sets comes near it."""

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value(text: str) -> float | None:
    """The value of numbers, + - * /, unary minus and parentheses; None for anything else, and where there is none."""
    text = text.strip()
    if not text or len(text) > LONGEST:
        return None
    try:
        found = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None
    return found if math.isfinite(found) else None


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"not arithmetic: {type(node).__name__}")


def same(one: float | None, other: float | None) -> bool:
    """Whether two values are equal within a relative 1e-6; what has no value equals nothing."""
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
