"""A loss over many rows of many classes, a few rows at a time: no [N, C] copy in float32 is ever whole.

Of a vocabulary of 150,000 words and 4,096 tokens one such copy has 2.5 GB, and a divergence makes several. Here each
piece of rows is projected, evaluated, and turned into gradients at once (as liger-kernel's fused losses do, Hsu et
al. 2024, arXiv:2410.10989), for every loss that is a mean over rows. What is kept is the gradient by what the rows
came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdbench.core.logits import Hidden, TopK
from kdbench.core.types import Batch, Outputs

NUMBERS_AT_ONCE = 2**22
"""How many logits a piece has on each side: 16 MiB in float32, 27 tokens of a vocabulary of 150,000."""

NUMBERS_AT_ONCE_ON_CUDA = 2**26
"""The same on an accelerator, 256 MiB: a smaller matrix product leaves it idle."""

Values = tuple[Tensor, dict[str, Tensor]]
Evaluate = Callable[[Outputs, Outputs | TopK, Batch], Values]
"""The total and the parts of some rows; over pieces both are summed."""


def rows_at_once(student: Outputs) -> int | None:
    """How many rows a piece of this answer has; None where all are few enough to be taken as they are."""
    hidden = isinstance(student, Hidden)
    rows = student.features if isinstance(student, Hidden) else student.logits
    classes = len(student.weight) if isinstance(student, Hidden) else rows.shape[-1]
    limit = NUMBERS_AT_ONCE_ON_CUDA if rows.is_cuda else NUMBERS_AT_ONCE
    # logits that are there and not many are taken as they are, to the bit as before there were pieces
    return max(1, limit // classes) if hidden or len(rows) * classes > 8 * limit else None


def in_pieces(
    evaluate: Evaluate,
    student: Outputs,
    teacher: Outputs | TopK,
    batch: Batch,
    rows: int,
    parameters: Sequence[Tensor] = (),
) -> Values:
    """`evaluate` summed over pieces of so many rows, with its gradients by the student's tensors and `parameters`.

    The gradients are made here, in the forward pass, where any is wanted; the backward pass scales them.
    """
    leaves = [tensor for tensor in _tensors(student) if tensor is not None]
    if not torch.is_grad_enabled():
        return _sum(evaluate(*piece) for piece in _pieces(student, teacher, batch, rows))
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    names: list[str] = []
    values = _Pieces.apply(evaluate, student, teacher, batch, rows, names, len(leaves), *leaves, *learned)
    return values[0], dict(zip(names, values[1].unbind(), strict=True))


def _tensors(answer: Outputs) -> tuple[Tensor | None, ...]:
    if isinstance(answer, Hidden):
        return answer.features, answer.weight, answer.bias
    return (answer.logits,)


def _pieces(
    student: Outputs, teacher: Outputs | TopK, batch: Batch, rows: int
) -> Iterator[tuple[Outputs, Outputs | TopK, Batch]]:
    for start in range(0, len(batch.target), rows):
        span = slice(start, start + rows)
        theirs = teacher.rows(span) if isinstance(teacher, TopK) else _projected(_constant(teacher), span)
        mine = replace(batch, target=batch.target[span], index=batch.index[span], view=None, views={})
        yield _projected(student, span), theirs, mine


def _projected(answer: Outputs, span: slice) -> Outputs:
    return Outputs(answer.rows(span).logits if isinstance(answer, Hidden) else answer.logits[span])


def _constant(answer: Outputs) -> Outputs:
    return answer.detached() if isinstance(answer, Hidden) else Outputs(answer.logits.detach())


def _sum(values: Iterator[Values]) -> Values:
    total, parts = next(values)
    for more, others in values:
        total = total + more
        parts = {name: part + others[name] for name, part in parts.items()}
    return total, parts


class _Pieces(torch.autograd.Function):
    """Total and stacked parts; the gradients are sums over pieces, in the precision of what they belong to."""

    @staticmethod
    def forward(
        ctx: Any,
        evaluate: Evaluate,
        student: Outputs,
        teacher: Outputs | TopK,
        batch: Batch,
        rows: int,
        names: list[str],
        own: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        answer = _constant(student)
        gradients = [torch.zeros_like(tensor) for tensor in tensors]
        learned = tensors[own:]
        results: list[Values] = []
        for number, (piece, theirs, mine) in enumerate(_pieces(answer, teacher, batch, rows)):
            span = slice(number * rows, (number + 1) * rows)
            logits = piece.logits.requires_grad_()
            with torch.enable_grad():
                total, parts = evaluate(replace(piece, logits=logits), theirs, mine)
            found = torch.autograd.grad(total, (logits, *learned), allow_unused=True)
            if found[0] is not None:
                _add(gradients[:own], answer, span, found[0])
            for gradient, more in zip(gradients[own:], found[1:], strict=True):
                if more is not None:
                    gradient += more
            results.append((total.detach(), parts))
        total, parts = _sum(iter(results))
        names.extend(parts)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(stacked := torch.stack(list(parts.values())))
        return total, stacked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = (
            ctx.gradients,
            None,
        )  # scaled in place: a second copy of the last layer's is as large
        if gradients is None:
            raise RuntimeError("the gradients of a loss in pieces were used: it goes backward once")
        return (*(None,) * 7, *(gradient.mul_(scale) for gradient in gradients))


def _add(gradients: Sequence[Tensor], answer: Outputs, span: slice, by_logits: Tensor) -> None:
    """Add the gradients of a piece, given that by its logits [n, C]."""
    if not isinstance(answer, Hidden):
        gradients[0][span] = by_logits
        return
    features, weight = answer.features[span], answer.weight
    gradients[0][span] = by_logits @ weight.to(by_logits.dtype)
    gradients[1].addmm_(by_logits.to(weight.dtype).T, features.to(weight.dtype))
    if answer.bias is not None:
        gradients[2].add_(by_logits.sum(dim=0))
