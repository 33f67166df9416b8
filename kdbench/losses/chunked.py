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

from kdbench.core.types import Batch, Outputs

NUMBERS_AT_ONCE = 2**22
"""How many logits a piece has on each side: 16 MiB in float32, 27 tokens of a vocabulary of 150,000."""

NUMBERS_AT_ONCE_ON_CUDA = 2**26
"""The same on an accelerator, 256 MiB: a smaller matrix product leaves it idle."""

Values = tuple[Tensor, dict[str, Tensor]]
Evaluate = Callable[[Outputs, Outputs, Batch], Values]
"""The total and the parts of some rows; over pieces both are summed."""


def rows_at_once(student: Outputs) -> int | None:
    """How many rows a piece of this answer has; None where all are few enough to be taken as they are."""
    logits = student.lazy_logits
    limit = NUMBERS_AT_ONCE_ON_CUDA if logits.device.type == "cuda" else NUMBERS_AT_ONCE
    # few logits that exist already are taken whole: the result is then the same to the bit as without chunks
    few = logits.is_materialized and len(logits) * logits.num_classes <= 8 * limit
    return None if few else max(1, limit // logits.num_classes)


def in_chunks(
    evaluate: Evaluate,
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    rows: int,
    parameters: Sequence[Tensor] = (),
) -> Values:
    """`evaluate` summed over pieces of so many rows, with its gradients by the student's tensors and `parameters`.

    The gradients are made here, in the forward pass, where any is wanted; the backward pass scales them.
    """
    leaves = student.lazy_logits.leaves()
    if not torch.is_grad_enabled():
        return _sum(evaluate(*piece) for piece in _pieces(student, teacher, batch, rows))
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    names: list[str] = []
    values = _Pieces.apply(evaluate, student, teacher, batch, rows, names, len(leaves), *leaves, *learned)
    return values[0], dict(zip(names, values[1].unbind(), strict=True))


def _pieces(
    student: Outputs, teacher: Outputs, batch: Batch, rows: int
) -> Iterator[tuple[Outputs, Outputs, Batch]]:
    theirs = teacher.lazy_logits.detach()
    for span, logits in student.lazy_logits.chunks(rows):
        mine = replace(batch, target=batch.target[span], index=batch.index[span], view=None, views={})
        yield Outputs(logits.dense()), Outputs(theirs.rows(span)), mine


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
        teacher: Outputs,
        batch: Batch,
        rows: int,
        names: list[str],
        own: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        answer = student.lazy_logits.detach()
        gradients = [torch.zeros_like(tensor) for tensor in tensors]
        learned = tensors[own:]
        results: list[Values] = []
        for number, (piece, theirs, mine) in enumerate(_pieces(Outputs(answer), teacher, batch, rows)):
            span = slice(number * rows, (number + 1) * rows)
            logits = piece.logits.requires_grad_()
            with torch.enable_grad():
                total, parts = evaluate(Outputs(logits), theirs, mine)
            found = torch.autograd.grad(total, (logits, *learned), allow_unused=True)
            if found[0] is not None:
                answer.add_gradient(gradients[:own], span, found[0])
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
