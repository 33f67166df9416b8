"""The types that everybody shares: what a side answers, what a batch is, what an objective promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class RunError(RuntimeError):
    """A run that cannot go on, for a reason that its user should read (no traceback needed)."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """One side's answer to a batch. Rows are the unit: N images, or N valid tokens.

    logits: [N, C].
    taps: the named intermediate values that were asked for (`stage1`, `stage1.pre`, `pooled`, ...).
    classifier: the last linear layer, (weight [C, D], bias [C] or None), where the model has one.
    parts: further answers about the same rows, by name: of another view (`strong`), or of another task. The answers to
    texts are here in their padded form, logits [B, T, V], the first one's too.
    """

    logits: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: tuple[Tensor, Tensor | None] | None = None
    parts: Mapping[str, Outputs] = field(default_factory=dict)

    def tapped(self, names: Sequence[str]) -> list[Tensor]:
        """The taps of these names, in their order."""
        return [self.taps[name] for name in names]


class Hidden(Outputs):
    """One side's answer before its last layer, where the logits [N, C] of all rows at once would fill the memory.

    features: [N, D]; weight: [C, D] and bias: [C] or None, of the last linear layer. The logits are made, in the
    precision of the features, whenever somebody looks at them: a loss takes a few rows at a time (`kdbench.pieces`).
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


@dataclass(frozen=True, slots=True)
class Facts:
    """What an objective may know of the training data before it sees any of it.

    num_classes: C.
    labels: int64 [train_size], of the full training set, which `Batch.index` counts in; on the CPU.
    trained: int64, the positions in it that the students are shown (all of it but a held-out part or a subset).
    """

    num_classes: int
    labels: Tensor
    trained: Tensor

    @property
    def train_size(self) -> int:
        """The size of the full training set."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Probes:
    """Both sides' answers to one small batch in eval mode without gradient: shapes for `Objective.bind`."""

    student: Outputs
    teacher: Outputs


@dataclass(frozen=True, slots=True)
class Survey:
    """Training images that an objective wants the student to answer before a step, beside the batch.

    per_class: so many of each class, drawn anew for each step; None: the whole epoch, in the views it will show.
    train_mode: by the student in train mode, where batch statistics move the running ones; else in eval mode.
    """

    per_class: int | None = None
    train_mode: bool = False


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method comes from; `arxiv` is the identifier, or empty where there is none."""

    title: str
    year: int
    arxiv: str = ""


class Objective(nn.Module):
    """One distillation loss term: an unweighted scalar, averaged over rows.

    A subclass computes the term in `forward`, declares what it needs in the class (or instance) attributes
    below, and makes learnable parts in `bind`. It holds no weight, schedule, cross-entropy or device.
    """

    paper: ClassVar[Paper]
    formula: ClassVar[str] = ""
    """The term in one line of plain text, for the documentation."""

    defaults_from: ClassVar[str] = ""
    """Where the default parameters come from."""

    disagreements: ClassVar[tuple[str, ...]] = ()
    """Where paper, official code and this file differ, a sentence each, with the switch where there is one."""

    version: ClassVar[int] = 1
    """Raised when the value computed changes, so that old runs are not taken for new ones."""

    needs: tuple[str, ...] = ("logits",)
    """For people and tables: logits, labels, taps, classifier, index, epoch, views, ..."""

    needs_teacher: bool = True
    """Without a teacher such an objective is refused; one that sets False is given outputs that say nothing."""

    needs_student: bool = True
    """False for a first stage that trains parts of the objective on the teacher's answers alone."""

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    """Names, or patterns that are replaced, before `bind`, by the names that the model has: `stage*` and `stage*.pre`
    (every stage, shallow first), `stage-1` and `stage-1.pre` (the deepest). Where both sides ask for every
    stage and one has more, the deepest ones are paired."""

    views: tuple[str, ...] = ()
    """Further views of each row that both sides answer in `parts`: `strong`; of text `predict`, `explain`."""

    tasks: tuple[str, ...] = ()
    """Which tasks it is made for. Empty: images, and language models too where it needs logits and labels alone."""

    couples_rows: bool = False
    """The value is not a mean of per-row values (batch statistics, Gram matrices): DDP gathers its rows."""

    order_dependent: bool = False
    """Permuting the rows of a batch changes the value."""

    depends_on_batch_size: bool = False
    """Several copies of a batch have another value than the batch, so a published weight holds for its batch size."""

    f_divergence: bool = False
    """The value is a mean over rows of sums q f(p/q): it can be told from a teacher's likeliest classes and the mass of
    all others (`kdbench.topk`)."""

    bounded: bool = True
    """False for a term that can fall without end: a run is stopped as diverged where both the cross-entropy and minus
    the term, over the steps of a log line, are above ln C."""

    draws_images: bool = False
    """Its surveys draw training images by class, which data that are read from files do not have."""

    owns_predict: bool = False
    """`predict` replaces the student's own logits at evaluation and in the export (SimKD's head)."""

    def bind(self, student: nn.Module, teacher: nn.Module, probes: Probes, facts: Facts) -> None:
        """Make learnable parts and memories, before the optimiser, the checkpoint load and DDP exist.

        The taps are names by then. Draws come from torch's generator, which is seeded for this objective.
        ValueError, with the shapes and what would fit, where the objective cannot serve these two models.
        """

    def survey(self, epoch: int) -> Survey | None:
        """What the student should answer before the next step of this epoch, for `take_survey`; None: nothing."""
        return None

    def take_survey(self, epoch: int, answers: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn from the student's answers to a survey: pairs of logits [N, C], without gradient, and target [N].

        Under DDP they are this rank's. What is kept of them belongs into the state dict.
        """

    def predict(self, student: Outputs) -> Tensor:
        """Logits [N, C] for evaluation; only asked of an objective that sets `owns_predict`."""
        return student.logits

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """The unweighted term: a scalar, mean over rows."""
        raise NotImplementedError
