"""Logits in their three forms."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.types import Outputs


class Hidden(Outputs):
    """One side's answer before its last layer, where the logits [N, C] of all rows at once would fill the memory.

    features: [N, D]; weight: [C, D] and bias: [C] or None, of the last linear layer. The logits are made, in the
    precision of the features, whenever somebody looks at them: a loss takes a few rows at a time (`kdbench.losses.chunked`).
    """

    __slots__ = ("bias", "features", "weight")

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        own: dict[str, object] = {"features": features, "weight": weight, "bias": bias}
        for name, value in {**own, "classifier": (weight, bias), "taps": {}, "parts": {}}.items():
            object.__setattr__(self, name, value)

    @property
    def logits(self) -> Tensor:
        """Of all rows: [N, C]."""
        kind = self.features.dtype
        bias = None if self.bias is None else self.bias.to(kind)
        return F.linear(self.features, self.weight.to(kind), bias)

    def rows(self, span: slice) -> Hidden:
        """These rows alone."""
        return Hidden(self.features[span], self.weight, self.bias)

    def detached(self) -> Hidden:
        """The same without gradient."""
        bias = None if self.bias is None else self.bias.detach()
        return Hidden(self.features.detach(), self.weight.detach(), bias)


@dataclass(frozen=True, slots=True)
class TopK:
    """A teacher's answer of which the likeliest classes of each row are known, and the mass of all others.

    indices: int64 [N, k], different in a row; log_probs: their log-probabilities [N, k] in nats; tail: the log of the
    mass of all others [N]. With k = C there are no others, and tail says nothing.
    """

    indices: Tensor
    log_probs: Tensor
    tail: Tensor

    def rows(self, span: slice) -> TopK:
        """These rows alone."""
        return TopK(self.indices[span], self.log_probs[span], self.tail[span])
