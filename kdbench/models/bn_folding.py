"""Folding of BatchNorms into the convolutions before them, for faster inference."""

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
    """Return a frozen copy of a network with fewer passes over its feature maps and, up to rounding, equal outputs.

    The autograd graph of one forward pass shows which layer reads which output. A convolution absorbs the
    BatchNorm that is its only reader; one whose output is a feature or has several readers stays unchanged.

    Args:
        model: Network in eval mode.
        images: Example inputs [N, 3, H, W] of the size used later; one image is enough.

    Returns:
        The folded copy; `model` itself if nothing can be folded or the copy's logits for `images` differ.
    """
    folded = deepcopy(model).requires_grad_(True)
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        original = answer(folded, images.detach(), feature_names(folded))
    if not (pairs := list(_foldable_pairs(folded, [original.logits, *original.features.values()]))):
        return model
    for convolution, norm in pairs:
        layers = cast(
            tuple[nn.Conv2d, nn.BatchNorm2d], (folded.get_submodule(convolution), folded.get_submodule(norm))
        )
        folded.set_submodule(convolution, fuse_conv_bn_eval(*layers))
        folded.set_submodule(norm, nn.Identity())
    folded.requires_grad_(False)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        logits = answer(folded, images).logits
    return folded if _is_close(logits, original.logits.detach()) else model


def _is_close(logits: Tensor, expected: Tensor) -> bool:
    """Compare up to rounding; a reader that the graph hides (behind `detach`) would cause larger differences."""
    return torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _foldable_pairs(model: nn.Module, outputs: Iterable[Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the paths of each convolution and the BatchNorm that is its only reader."""
    layers = {
        id(module.weight): (name, type(module))
        for name, module in model.named_modules()
        if type(module) is nn.Conv2d
        or (type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats)
    }
    readers = _reader_counts(outputs)
    layer_of = {node: layer for node in readers if (layer := _layer_of(node, layers)) is not None}
    calls = Counter(name for name, _ in layer_of.values())
    for node, (name, kind) in layer_of.items():
        source = node.next_functions[0][0]
        if kind is not nn.BatchNorm2d or source not in layer_of or readers[source] != 1:
            continue
        convolution, source_kind = layer_of[source]
        if source_kind is nn.Conv2d and calls[name] == calls[convolution] == 1:
            yield convolution, name


def _reader_counts(outputs: Iterable[Tensor]) -> Counter[Node]:
    """Count the readers of every graph node behind the outputs; an output itself counts as a reader."""
    readers: Counter[Node] = Counter(output.grad_fn for output in outputs if output.grad_fn is not None)
    queue = list(readers)
    while queue:
        for node, _ in queue.pop().next_functions:
            if node is not None:
                if node not in readers:
                    queue.append(node)
                readers[node] += 1
    return readers


def _layer_of(node: Node, layers: dict[int, tuple[str, type]]) -> tuple[str, type] | None:
    """Return the path and type of the layer whose weight a node reads, or None."""
    weights = (id(getattr(source, "variable", None)) for source, _ in node.next_functions)
    return next((layers[weight] for weight in weights if weight in layers), None)
