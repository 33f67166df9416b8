"""The inputs of the worked values, and random ones for the properties."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

STUDENT = torch.tensor([[1.0, 0.5, -0.5], [0.2, -0.3, 1.1]], dtype=torch.float64)
TEACHER = torch.tensor([[2.0, 0.0, -1.0], [-0.5, 0.3, 2.5]], dtype=torch.float64)
TARGET = torch.tensor([0, 2])

Loss = Callable[[Tensor], Tensor]
"""A loss as a function of the student's logits alone."""

temperatures = st.floats(0.5, 20.0)
gammas = st.floats(0.05, 1.0)


def normal(seed: int, rows: int, classes: int, scale: float = 2.0) -> Tensor:
    """Float64 logits [rows, classes]."""
    draws = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * draws


@st.composite
def pairs(draw: st.DrawFn, max_classes: int = 12) -> tuple[Tensor, Tensor]:
    """Student and teacher logits of one shape."""
    seed, rows, classes = (
        draw(st.integers(0, 2**31)),
        draw(st.integers(1, 6)),
        draw(st.integers(2, max_classes)),
    )
    return normal(seed, rows, classes), normal(seed + 1, rows, classes)


def targets(logits: Tensor) -> Tensor:
    """A label for every row, all classes in turn."""
    return torch.arange(len(logits)) % logits.shape[-1]


def value_and_gradient(loss: Loss, student: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the student's logits."""
    leaf = student.detach().clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def assert_same(ours: Loss, formula: Loss, student: Tensor) -> None:
    """Value and gradient of the implementation are those of the formula, and finite differences agree."""
    expected = value_and_gradient(formula, student)
    torch.testing.assert_close(value_and_gradient(ours, student), expected, rtol=1e-8, atol=1e-10)
    assert torch.autograd.gradcheck(ours, student.detach().clone().requires_grad_())


def assert_shift_invariant(loss: Callable[[Tensor, Tensor], Tensor], pair: tuple[Tensor, Tensor]) -> None:
    """A constant added to a row of logits, another for each side and row, changes nothing."""
    student, teacher = pair
    shift = torch.arange(1, len(student) + 1, dtype=student.dtype)[:, None]
    moved = loss(student + shift, teacher - shift)
    torch.testing.assert_close(moved, loss(student, teacher), rtol=1e-6, atol=1e-6)
