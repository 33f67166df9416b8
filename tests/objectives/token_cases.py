"""Worked values of token-level divergences: logits of two sequences of three tokens, one of them padding."""

import torch
from torch import Tensor

from tests.objectives.cases import Term, normal, value_and_gradient

_STUDENT = [
    [[-0.5, 1.25, 0.25, -0.75], [1, 0, -1, 0.75], [0.3, 0.1, -0.2, 0.4]],
    [[-0.25, -1.25, 0.5, -0.5], [1.25, 0.25, -0.75, 1], [0, 0.5, -0.5, 1]],
]
_TEACHER = [
    [[0.25, -0.75, 1, 0], [-1, 0.75, -0.25, -1.25], [0.6, -0.5, 0.2, 0.1]],
    [[-0.75, 1, 0, -1], [0.75, -0.25, -1.25, 0.5], [0.1, 0.2, 0.3, 0.4]],
]
LABELS = torch.tensor([[1, 2, -100], [3, 0, 1]])

STUDENT, TEACHER = (
    torch.tensor(logits, dtype=torch.float64)[LABELS != -100] for logits in (_STUDENT, _TEACHER)
)
"""Rows are the five valid tokens; in the fourth the two sides are the same distribution."""

TARGET = LABELS[LABELS != -100]

FORWARD, REVERSE = 0.46695609511313646, 0.47023170632375394
"""KL(p || q) and KL(q || p) of these rows."""

CROSS = 1.6545920928444997
"""-sum p log q, which the published code calls the forward divergence."""


def teacher_entropy() -> float:
    """In nats, averaged over the rows."""
    return torch.distributions.Categorical(logits=TEACHER).entropy().mean().item()


def assert_float32_is_close(loss: Term, loss32: Term, student: Tensor) -> None:
    """Value and gradient in float32 are those of float64."""
    exact, single = value_and_gradient(loss, student), value_and_gradient(loss32, student.float())
    torch.testing.assert_close(single[0].double(), exact[0], rtol=1e-5, atol=1e-7)
    assert (single[1].double() - exact[1]).norm() < 2e-5 * exact[1].norm() + 1e-9


def vocabulary(rows: int = 16, words: int = 500) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits over a larger vocabulary."""
    return normal(0, rows, words, scale=3.0), normal(1, rows, words, scale=3.0)
