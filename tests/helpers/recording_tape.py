"""A recording of tensor operations on any device, replayed as a CUDA graph is: the same operations, the same memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SYNCS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class HostReadError(Exception):
    """The host looked at a number, which a recording would never look at again."""


class Tape(TorchDispatchMode):
    """Takes down every operation with its arguments. Numbers that are not tensors stay what they were, as in a graph.

    Unlike in a graph, recording does the work, too: what changes in it is put back, so that a replay comes next.
    """

    replays = 0
    """Of all tapes."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple, dict, Any]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._own: set[int] = set()

    def warm_up(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any]) -> Any:
        with torch.random.fork_rng(devices=[]), self:
            result = work()
        for storage, value in self._before.values():
            storage.copy_(value)
        return result

    @torch.no_grad()
    def replay(self) -> None:
        Tape.replays += 1
        for function, args, kwargs, outputs in self._calls:
            given = _places((args, kwargs))
            again = function(*args, **kwargs)
            for old, new in zip(_tensors(outputs), _tensors(again), strict=True):
                if new is not old and old.untyped_storage().data_ptr() not in given:
                    old.copy_(new)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if waits(function, args):
            raise HostReadError(str(function))
        for leaf in _written(function, args, kwargs):
            storage = leaf.untyped_storage()
            if storage.data_ptr() not in self._own and storage.data_ptr() not in self._before:
                self._before[storage.data_ptr()] = storage, storage.clone()
        given = _places((args, kwargs))
        outputs = function(*args, **kwargs)
        self._own |= _places(outputs) - given
        self._calls.append((function, args, kwargs, outputs))
        return outputs


def waits(function: Any, args: tuple) -> bool:
    """Whether the host must see a number to know what comes out: `item`, `nonzero`, an index that is a mask."""
    if function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
        return any(leaf.dtype in (torch.bool, torch.uint8) for leaf in _tensors(args[1]))
    return any(tag in function.tags for tag in SYNCS)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _places(tree: Any) -> set[int]:
    return {leaf.untyped_storage().data_ptr() for leaf in _tensors(tree)}


def _written(function: Any, args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors that the operation changes, by its schema; what BatchNorm's leaves out are its running statistics."""
    found = _tensors(args[3:5]) if function is torch.ops.aten.native_batch_norm.default else []
    for number, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            found += _tensors(value)
    return found
