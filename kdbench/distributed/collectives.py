"""Collectives between the ranks of a run: shares of rows, sums and means, decisions, gathered batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdbench.core.errors import RunError
from kdbench.core.types import Batch, Outputs

T = TypeVar("T")
P = ParamSpec("P")


def world_size() -> int:
    """Return the number of ranks; 1 without DDP."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def on_rank_0(write: Callable[P, None]) -> Callable[P, None]:
    """Decorate a function so that it does nothing on ranks other than 0: a run has one folder."""

    @functools.wraps(write)
    def gated(*args: P.args, **kwargs: P.kwargs) -> None:
        if rank() == 0:
            write(*args, **kwargs)

    return gated


# ---- shares of rows


def shares(rows: int) -> tuple[int, ...]:
    """Return how many of a step's rows each rank has: as even as possible, the first ranks one more."""
    least, more = divmod(rows, world_size())
    return tuple(least + (number < more) for number in range(world_size()))


def own_rows(start: int, stop: int) -> slice:
    """Return this rank's share of the rows [start, stop). It may be empty; the shares are a partition."""
    counts = shares(stop - start)
    first = start + sum(counts[: rank()])
    return slice(first, first + counts[rank()])


def own_share(start: int, stop: int) -> tuple[slice, tuple[int, ...]]:
    """Return the rows that this rank processes and the number of rows of each rank (see `Batch.shares`).

    A rank without rows processes the last one as a stand-in, so that its graph is that of the other ranks.
    """
    rows = own_rows(start, stop)
    if world_size() == 1 or start == stop:
        return rows, ()
    return rows if rows.start < rows.stop else slice(stop - 1, stop), shares(stop - start)


# ---- decisions, sums and means


def agreed(function: Callable[[], T]) -> T:
    """Call `function` on rank 0 and return its result on every rank.

    Raises:
        RunError: `function` raised it on rank 0; likewise for ValueError.
    """
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except (RunError, ValueError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def any_rank(*flags: bool) -> list[bool]:
    """Return for each flag whether any rank has set it."""
    if world_size() == 1:
        return list(flags)
    return [count > 0 for count in summed(torch.tensor(flags, dtype=torch.int64, device=_device())).tolist()]


def mean(tensor: Tensor) -> Tensor:
    """Return the mean over ranks, on every rank."""
    return summed(tensor.clone()) / world_size() if world_size() > 1 else tensor


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks. The same parameters must have gradients on all ranks."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def share_statistics(network: nn.Module) -> None:
    """Copy rank 0's BatchNorm statistics, which are the stored ones, to every rank.

    In training each rank updates its own statistics from its own rows.
    """
    if world_size() == 1:
        return
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    for buffer in (buffer for norm in norms for buffer in norm.buffers()):
        dist.broadcast(buffer, src=0)


def _device() -> torch.device:
    """Return the device of the tensors that the backend (NCCL or gloo) communicates."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def row_counts(rows: int, device: torch.device) -> list[int]:
    """Return the number of rows of each rank, in the order of ranks."""
    if world_size() == 1:
        return [rows]
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[dist.get_rank()] = rows
    dist.all_reduce(counts)
    return [int(count) for count in counts]


def summed(tensor: Tensor) -> Tensor:
    """Return the sum over ranks, on every rank. The tensor is changed in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def joined(outputs: Outputs, features: Sequence[str], views: Sequence[str], counts: Sequence[int]) -> Outputs:
    """Gather the outputs of all ranks. Gradients flow back to the rank that a row came from.

    Args:
        outputs: This rank's outputs.
        features: Names of the features to gather; others are left out.
        views: Names of the views to gather.
        counts: Number of rows of each rank.
    """
    return replace(
        outputs,
        raw_logits=_Rows.apply(outputs.logits, counts),
        features={name: _Rows.apply(outputs.features[name], counts) for name in features},
        parts={name: joined(outputs.parts[name], features, (), counts) for name in views},
    )


def joined_batch(batch: Batch, inputs: bool, counts: Sequence[int]) -> Batch:
    """Gather the batches of all ranks, without views.

    Args:
        batch: This rank's batch.
        inputs: Whether to gather the inputs; otherwise they stay this rank's.
        counts: Number of rows of each rank.
    """
    return replace(
        batch,
        inputs=_Rows.apply(batch.inputs, counts) if inputs else batch.inputs,
        target=_Rows.apply(batch.target, counts),
        index=_Rows.apply(batch.index, counts),
        view=None,
        views={},
        shares=(),
    )


class _Rows(torch.autograd.Function):
    """Concatenate the rows of all ranks. The gradient of a row is the sum over all ranks.

    Stand-in rows, beyond a rank's count, are left out. Every rank computes the same value from the gathered rows,
    so the sum is the gradient times the number of ranks. The mean of the parameters' gradients over ranks divides
    by that number again.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        own = counts[dist.get_rank()]
        ctx.stand_ins = len(rows) - own
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[:own] = rows[:own]
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        total = gradient.contiguous()
        dist.all_reduce(total)
        start = sum(ctx.counts[: dist.get_rank()])
        own = total[start : start + ctx.counts[dist.get_rank()]]
        return torch.cat([own, own.new_zeros(ctx.stand_ins, *own.shape[1:])]) if ctx.stand_ins else own, None
