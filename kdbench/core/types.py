"""Types that all rooms share: outputs of a network, batches, tokens, views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from kdbench.core.logits import Logits, as_logits


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of one network (student or teacher) for a batch of N rows: images, or valid tokens.

    Attributes:
        raw_logits: The logits as the network returned them: a tensor [N, C], or any form of `kdbench.core.logits`.
        features: The requested intermediate activations by name (`stage1`, `stage1.pre`, `pooled`, ...).
        classifier: The last linear layer, (weight [C, D], bias [C] or None), if the network has one.
        parts: Outputs for additional views of the same rows by name (`strong`). Those for texts have padded logits
            [B, T, V], the first text included.
    """

    raw_logits: Tensor | Logits
    features: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: tuple[Tensor, Tensor | None] | None = None
    parts: Mapping[str, Outputs] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """The logits as one tensor [N, C]; TypeError for top-k logits."""
        return as_logits(self.raw_logits).dense()

    @property
    def lazy_logits(self) -> Logits:
        """The logits in the form of the protocol `kdbench.core.logits.Logits`."""
        return as_logits(self.raw_logits)

    def with_logits(self, logits: Tensor | Logits) -> Outputs:
        """Return the same outputs with other logits."""
        return replace(self, raw_logits=logits)

    def select_features(self, names: Sequence[str]) -> list[Tensor]:
        """Return the features of these names, in their order."""
        return [self.features[name] for name in names]


IGNORED = -100
"""The label of positions without a target: padding and prompts."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts of a batch, padded to the longest one.

    Attributes:
        ids: Token ids, int64 [B, L].
        mask: Bool [B, L], False at padding.
        labels: Targets of the logits [B, T, V], int64 [B, T], or `IGNORED`. In an encoder-decoder these are the
            targets of the decoder; in a causal model (T = L), the next token at each position.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor

    @property
    def valid(self) -> Tensor:
        """Positions with a target, bool [B, T]; these are the rows."""
        return self.labels != IGNORED


@dataclass(frozen=True, slots=True)
class View:
    """The augmentation of each row, int64 [N]: crop offsets in pixels, and flip (0 or 1)."""

    dy: Tensor
    dx: Tensor
    flip: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of N rows: images, or the valid tokens of B texts in order.

    Attributes:
        inputs: Images [N, 3, H, W], or token ids [B, L].
        target: Labels, int64 [N].
        index: Position of each row, or of its text, in the training set, int64 [N].
        view: The augmentation of each image, or None.
        epoch: The epoch, from 1.
        step: The step within the epoch, from 0.
        views: Inputs of additional views of the same rows, by name.
        texts: The texts by view; `Outputs.logits` belongs to the first one.
        shares: The rows of the step on each rank; empty for a single process. A rank without rows has one row of
            weight 0, so that it computes the same graph.
    """

    inputs: Tensor
    target: Tensor
    index: Tensor
    view: View | None = None
    epoch: int = 1
    step: int = 0
    views: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Mapping[str, Tokens] = field(default_factory=dict)
    shares: tuple[int, ...] = ()
