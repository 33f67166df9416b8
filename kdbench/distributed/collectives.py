"""What the ranks of a run share under DDP: the rows of a step, sums, decisions; and who writes."""

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
    """The number of ranks; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which one this process is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def on_rank_0(write: Callable[P, None]) -> Callable[P, None]:
    """A function that does nothing on the other ranks: a run has one folder."""

    @functools.wraps(write)
    def gated(*args: P.args, **kwargs: P.kwargs) -> None:
        if rank() == 0:
            write(*args, **kwargs)

    return gated


# ---- whose rows


def shares(rows: int) -> tuple[int, ...]:
    """How many of a step's rows each rank has: as even as can be, the first ones the more."""
    least, more = divmod(rows, world_size())
    return tuple(least + (number < more) for number in range(world_size()))


def own_rows(start: int, stop: int) -> slice:
    """This rank's share of the rows [start, stop), which may be none: no row is shown twice, and none left out."""
    counts = shares(stop - start)
    first = start + sum(counts[: rank()])
    return slice(first, first + counts[rank()])


def own_share(start: int, stop: int) -> tuple[slice, tuple[int, ...]]:
    """Which of a step's rows this rank is shown, and how many each rank has (see `Batch.shares`)."""
    rows = own_rows(start, stop)
    if world_size() == 1 or start == stop:
        return rows, ()
    return rows if rows.start < rows.stop else slice(stop - 1, stop), shares(stop - start)


# ---- what all ranks know


def agreed(function: Callable[[], T]) -> T:
    """What `function` finds on rank 0, on every rank; a RunError or ValueError of it, too."""
    if world_size() == 1:
        return function()
    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            found[0] = function()
        except (RunError, ValueError) as error:
            found[1] = error
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    result: T = found[0]
    return result


def any_rank(*flags: bool) -> list[bool]:
    """For each flag whether any rank has it set."""
    if world_size() == 1:
        return list(flags)
    return [count > 0 for count in summed(torch.tensor(flags, dtype=torch.int64, device=_device())).tolist()]


def mean(tensor: Tensor) -> Tensor:
    """The mean over ranks, on each of them."""
    return summed(tensor.clone()) / world_size() if world_size() > 1 else tensor


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over ranks; those that are there must be the same on all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def share_statistics(network: nn.Module) -> None:
    """Give every rank the running statistics of rank 0's BatchNorms, which are those that are stored: each rank has
    gathered its own, of its own rows."""
    if world_size() == 1:
        return
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    for buffer in (buffer for norm in norms for buffer in norm.buffers()):
        dist.broadcast(buffer, src=0)


def _device() -> torch.device:
    """Where NCCL, or gloo, looks for tensors."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


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


def joined(outputs: Outputs, features: Sequence[str], views: Sequence[str], counts: Sequence[int]) -> Outputs:
    """The answers of all ranks as one, with the features and the parts named; gradients flow back to their rank."""
    return replace(
        outputs,
        raw_logits=_Rows.apply(outputs.logits, counts),
        features={name: _Rows.apply(outputs.features[name], counts) for name in features},
        parts={name: joined(outputs.parts[name], features, (), counts) for name in views},
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
        shares=(),
    )


class _Rows(torch.autograd.Function):
    """Concatenate the rows of all ranks; backwards, every rank gets the sum of what all ranks send to its rows.

    A rank's rows beyond its count stand in for rows that it has not, and are left out.
    Every rank computes the same value from the joined rows, so that sum is the number of ranks times the
    gradient: the mean over ranks that DDP takes of the parameters' gradients makes it exact.
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
