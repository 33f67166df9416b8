"""Losses over very many logits, in chunks of rows, so that no float32 copy [N, C] exists as a whole.

With a vocabulary of 150,000 and 4,096 tokens, one copy takes 2.5 GB, and a divergence makes several. Here each chunk is
projected, evaluated and turned into gradients at once, as in the fused losses of liger-kernel (Hsu et al. 2024,
arXiv:2410.10989). This holds for every loss that is a mean over rows. Only the gradients by the hidden states and the
last layer are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdbench.core.types import Batch, Outputs

CHUNK_LOGITS = 2**22
"""Logits of a chunk of each network: 16 MiB in float32, or 27 tokens with a vocabulary of 150,000."""

CHUNK_LOGITS_CUDA = 2**26
"""The same on CUDA, 256 MiB: smaller matrix products would leave the device idle."""

Values = tuple[Tensor, dict[str, Tensor]]
Evaluate = Callable[[Outputs, Outputs, Batch], Values]
"""Returns the total and the parts of some rows; both are summed over chunks."""


def chunk_rows(student: Outputs) -> int | None:
    """Return the number of rows of a chunk, or None if all logits are few enough to be processed at once."""
    logits = student.lazy_logits
    limit = CHUNK_LOGITS_CUDA if logits.device.type == "cuda" else CHUNK_LOGITS
    # few logits that exist already are not split: the result is then the same to the bit as without chunks
    are_few = logits.is_materialized and len(logits) * logits.num_classes <= 8 * limit
    return None if are_few else max(1, limit // logits.num_classes)


def evaluate_in_chunks(
    evaluate: Evaluate,
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    rows: int,
    parameters: Sequence[Tensor] = (),
) -> Values:
    """Sum a loss over chunks of rows.

    Gradients are computed in the forward pass, where gradients are enabled; the backward pass only scales them.

    Args:
        evaluate: The loss.
        student: The student's outputs.
        teacher: The teacher's outputs; they receive no gradient.
        batch: The batch.
        rows: Rows of a chunk.
        parameters: Parameters of the loss, which receive gradients, too.
    """
    leaves = student.lazy_logits.leaves()
    if not torch.is_grad_enabled():
        return _sum(evaluate(*chunk) for chunk in _chunks(student, teacher, batch, rows))
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    names: list[str] = []
    values = _ChunkedLoss.apply(
        evaluate, student, teacher, batch, rows, names, len(leaves), *leaves, *learned
    )
    return values[0], dict(zip(names, values[1].unbind(), strict=True))


def _chunks(
    student: Outputs, teacher: Outputs, batch: Batch, rows: int
) -> Iterator[tuple[Outputs, Outputs, Batch]]:
    teacher_logits = teacher.lazy_logits.detach()
    for span, logits in student.lazy_logits.chunks(rows):
        rows_of_batch = replace(
            batch, target=batch.target[span], index=batch.index[span], view=None, views={}
        )
        yield Outputs(logits.dense()), Outputs(teacher_logits.rows(span)), rows_of_batch


def _sum(values: Iterator[Values]) -> Values:
    total, parts = next(values)
    for more, others in values:
        total = total + more
        parts = {name: part + others[name] for name, part in parts.items()}
    return total, parts


class _ChunkedLoss(torch.autograd.Function):
    """The total and the stacked parts; gradients are summed in the precision of their tensors."""

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
        for number, (chunk, teacher_chunk, batch_rows) in enumerate(
            _chunks(Outputs(answer), teacher, batch, rows)
        ):
            span = slice(number * rows, (number + 1) * rows)
            logits = chunk.logits.requires_grad_()
            with torch.enable_grad():
                total, parts = evaluate(Outputs(logits), teacher_chunk, batch_rows)
            computed = torch.autograd.grad(total, (logits, *learned), allow_unused=True)
            if computed[0] is not None:
                answer.add_gradient(gradients[:own], span, computed[0])
            for gradient, more in zip(gradients[own:], computed[1:], strict=True):
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
        # scaled in place, because a second copy of the last layer's gradient would be as large
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "the gradients of a chunked loss were used already: backward can be called once"
            )
        return (*(None,) * 7, *(gradient.mul_(scale) for gradient in gradients))
