"""BatchNorm in the weights of the convolution before it, for a network that only answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdbench.models.features import answer, feature_names


def fold_batch_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """A frozen copy of a network in eval mode that answers the same up to rounding, in fewer passes over its maps.

    images: [N, 3, H, W] of the size that it will be asked about; one is enough. Who reads whose result is seen in the
    graph of its answer: a convolution takes up the BatchNorm that is alone in reading it; one whose result is a
    feature, or is read twice, stays as it is. Where nothing can be folded, or the answer to `images` is not the
    same, the network itself is returned.
    """
    copied = deepcopy(model).requires_grad_(True)
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        found = answer(copied, images.detach(), feature_names(copied))
    if not (pairs := list(_pairs(copied, [found.logits, *found.features.values()]))):
        return model
    for convolution, norm in pairs:
        layers = cast(
            tuple[nn.Conv2d, nn.BatchNorm2d], (copied.get_submodule(convolution), copied.get_submodule(norm))
        )
        copied.set_submodule(convolution, fuse_conv_bn_eval(*layers))
        copied.set_submodule(norm, nn.Identity())
    copied.requires_grad_(False)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        again = answer(copied, images).logits
    return copied if _same(again, found.logits.detach()) else model


def _same(logits: Tensor, known: Tensor) -> bool:
    """Up to rounding: a reader that the graph does not show (behind `detach`) would change more."""
    return torch.allclose(logits, known, rtol=1e-3, atol=1e-3 * float(known.abs().max()))


def _pairs(model: nn.Module, ends: Iterable[Tensor]) -> Iterator[tuple[str, str]]:
    """The names of convolutions and of the BatchNorms that alone read them."""
    owners = {
        id(module.weight): (name, type(module))
        for name, module in model.named_modules()
        if type(module) is nn.Conv2d
        or (type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats)
    }
    readers = _readers(ends)
    owned = {node: owner for node in readers if (owner := _owner(node, owners)) is not None}
    calls = Counter(name for name, _ in owned.values())
    for node, (name, kind) in owned.items():
        before = node.next_functions[0][0]
        if kind is not nn.BatchNorm2d or before not in owned or readers[before] != 1:
            continue
        convolution, its_kind = owned[before]
        if its_kind is nn.Conv2d and calls[name] == calls[convolution] == 1:
            yield convolution, name


def _readers(ends: Iterable[Tensor]) -> Counter[Node]:
    """Of every node of the graph behind these tensors: how many others read it, these tensors among them."""
    readers: Counter[Node] = Counter(end.grad_fn for end in ends if end.grad_fn is not None)
    left = list(readers)
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None:
                if node not in readers:
                    left.append(node)
                readers[node] += 1
    return readers


def _owner(node: Node, owners: dict[int, tuple[str, type]]) -> tuple[str, type] | None:
    """The layer whose weight the node reads, and its kind."""
    read = (id(getattr(input_, "variable", None)) for input_, _ in node.next_functions)
    return next((owners[one] for one in read if one in owners), None)
