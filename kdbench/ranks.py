"""The rows of all ranks as one batch, and sums over ranks: what objectives must see under DDP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdbench.core import Batch, Outputs


def world_size() -> int:
    """The number of ranks; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def row_counts(rows: int, device: torch.device) -> list[int]:
    """How many rows each rank has, in the order of ranks."""
    if world_size() == 1:
        return [rows]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[dist.get_rank()] = rows
    dist.all_reduce(counts)
    return [int(count) for count in counts]


def summed(tensor: Tensor) -> Tensor:
    """The sum over ranks, on each of them; the tensor itself where nothing is distributed."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def joined(outputs: Outputs, taps: Sequence[str], views: Sequence[str], counts: Sequence[int]) -> Outputs:
    """The answers of all ranks as one, with the taps and the parts named; gradients flow back to their rank."""
    return replace(
        outputs,
        logits=_Rows.apply(outputs.logits, counts),
        taps={name: _Rows.apply(outputs.taps[name], counts) for name in taps},
        parts={name: joined(outputs.parts[name], taps, (), counts) for name in views},
    )


def joined_batch(batch: Batch, inputs: bool, counts: Sequence[int]) -> Batch:
    """The batches of all ranks as one, without views; with inputs where they are wanted, else this rank's."""
    return replace(
        batch,
        inputs=_Rows.apply(batch.inputs, counts) if inputs else batch.inputs,
        target=_Rows.apply(batch.target, counts),
        index=_Rows.apply(batch.index, counts),
        view=None,
        views={},
    )


class _Rows(torch.autograd.Function):
    """Concatenate the rows of all ranks; backwards, every rank gets the sum of what all ranks send to its rows.

    Every rank computes the same value from the joined rows, so that sum is the number of ranks times the
    gradient: the mean over ranks that DDP takes of the parameters' gradients makes it exact.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        total = gradient.contiguous()
        dist.all_reduce(total)
        start = sum(ctx.counts[: dist.get_rank()])
        return total[start : start + ctx.counts[dist.get_rank()]], None
