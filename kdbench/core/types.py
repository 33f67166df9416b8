"""The types that everybody shares: what a side answers, what a batch is, what an objective promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from kdbench.core.logits import Logits, as_logits


@dataclass(frozen=True, slots=True)
class Outputs:
    """The answers of one side to a batch. Rows are the unit: N images, or N valid tokens.

    Attributes:
        raw_logits: The logits as the side gave them: a tensor [N, C], or any form of `kdbench.core.logits`.
        features: The intermediate activations that were asked for, by name (`stage1`, `stage1.pre`, `pooled`, ...).
        classifier: The last linear layer, (weight [C, D], bias [C] or None), where the model has one.
        parts: Further answers about the same rows, by name: of another view (`strong`), or of another task. The
            answers to texts are here in their padded form, logits [B, T, V], those of the first text included.
    """

    raw_logits: Tensor | Logits
    features: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: tuple[Tensor, Tensor | None] | None = None
    parts: Mapping[str, Outputs] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """The logits as one tensor [N, C]. TypeError where a teacher knows only the top k classes."""
        return as_logits(self.raw_logits).dense()

    @property
    def lazy_logits(self) -> Logits:
        """The logits behind the protocol that all their forms share."""
        return as_logits(self.raw_logits)

    def with_logits(self, logits: Tensor | Logits) -> Outputs:
        """Return the same answers with other logits."""
        return replace(self, raw_logits=logits)

    def select_features(self, names: Sequence[str]) -> list[Tensor]:
        """Return the features of these names, in their order."""
        return [self.features[name] for name in names]


IGNORED = -100
"""A label that no logits answer for: padding, a prompt."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts as a network is given them, padded to the longest of the batch.

    ids: int64 [B, L]; mask: bool [B, L], False where a position is padding.
    labels: int64 [B, T], what the logits [B, T, V] should say at each position, `IGNORED` where nothing: the decoder's
    targets of an encoder-decoder (T is their length), and in a causal model (T = L) the token after each.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor

    @property
    def valid(self) -> Tensor:
        """bool [B, T]: the positions that are rows."""
        return self.labels != IGNORED


@dataclass(frozen=True, slots=True)
class View:
    """The augmentation drawn for each row, all int64 [N]: crop offsets in pixels and flip (0 or 1)."""

    dy: Tensor
    dx: Tensor
    flip: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """What the students are shown: inputs [N, ...], target [N], index [N] (position in the training set),
    the view of each row, and our own position: epoch (from 1) and step (from 0, within the epoch).
    views: inputs of further views of the same rows, by name, where an objective asks for them.
    shares: how many rows of the step each rank has; nothing where one process has them all. A rank that has none is
    shown one that counts for nothing, so that it takes the same way through student, loss and gradients.

    A batch of text has its B texts in `texts`, by view, of which the first is answered in `Outputs.logits`. Rows are
    the N valid tokens of that one, sample by sample: target is their labels, index the sample of each row, inputs the
    ids [B, L]."""

    inputs: Tensor
    target: Tensor
    index: Tensor
    view: View | None = None
    epoch: int = 1
    step: int = 0
    views: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Mapping[str, Tokens] = field(default_factory=dict)
    shares: tuple[int, ...] = ()
