"""CRD, Tian et al. 2020, arXiv:1910.10699: noise contrast of a sample with K of other classes, from memories."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors
from kdbench.utils.seeding import draw_integers

_BITS = 32
_GATHERED = 2**24
"""Floats that are copied out of a memory at once."""


def crd_loss(scores: Tensor, train_size: int) -> Tensor:
    """One direction: -[log h(positive) + sum log(1 - h(negative))], h(P) = P / (P + c + 1e-7), c = K / train_size.

    scores: [N, 1 + K], exponentiated and normalised, the positive first; train_size: the number of samples
    that a negative may be, as the noise is uniform over them. Returns a scalar in nats, mean over rows.
    """
    noise = (scores.shape[1] - 1) / train_size
    positive, negatives = scores[:, 0], scores[:, 1:]
    # log1p keeps what thousands of terms close to 0 add up to
    pulled = torch.log1p((noise + 1e-7) / positive)
    pushed = torch.log1p((negatives + 1e-7) / noise).sum(dim=1)
    return (pulled + pushed).mean()


class CRD(Objective):
    """`crd_loss` of each side's embedded pooled features against a memory of the other side's, summed.

    dimension: of the embeddings and memories; negatives: K, drawn for each sample among the other classes;
    momentum: what a memory keeps of itself when its sample is seen; positives: `exact`, the sample itself, or
    `relax`, any of its class. A memory has a row per sample trained on, in the order of classes.
    Raises ValueError unless dimension, negatives >= 1, 0 < temperature < inf and 0 <= momentum < 1.
    """

    paper = Paper("Contrastive Representation Distillation", 2020, "1910.10699")
    formula = (
        "sum over both directions of -log h(P_0) - sum_k log(1 - h(P_k)), h(P) = P / (P + K/n), "
        "P = exp(<v, m>/T) / Z"
    )
    defaults_from = "RepDistiller: 128 dimensions, 16384 negatives, temperature 0.07, momentum 0.5, exact"
    disagreements = (
        "RepDistiller draws negatives without replacement in the data loader; here they are drawn on the "
        "device, with replacement, as a function of (epoch, step, sample).",
        "RepDistiller draws among and divides by the full training set, MCMI's few-shot runs too; here it is the "
        "samples trained on, which differ where some are held out or left out by a protocol.",
    )
    needs = ("pooled", "labels", "index", "epoch", "step")
    student_features = teacher_features = ("pooled",)
    couples_rows = True
    memory: Tensor
    normaliser: Tensor
    place: Tensor
    start: Tensor
    count: Tensor
    key: Tensor

    def __init__(
        self,
        dimension: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        positives: str = "exact",
        negatives_from: str = "trained",
    ) -> None:
        super().__init__()
        for name, value in (("dimension", dimension), ("negatives", negatives)):
            if value < 1:
                raise ValueError(f"CRD: {name} must be 1 or more, got {value}")
        if not 0 < temperature < math.inf:
            raise ValueError(f"CRD: temperature must be positive and finite, got {temperature}")
        if not 0 <= momentum < 1:
            raise ValueError(f"CRD: momentum must be in [0, 1), got {momentum}")
        if positives not in ("exact", "relax"):
            raise ValueError(f"CRD: positives must be exact or relax, got {positives}")
        if negatives_from not in ("trained", "all"):
            raise ValueError(f"CRD: negatives_from must be trained or all, got {negatives_from}")
        self.dimension, self.negatives, self.positives = dimension, negatives, positives
        self.negatives_from = negatives_from
        self.temperature, self.momentum = temperature, momentum

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the embeddings and the memories; ValueError unless two classes are trained on."""
        (ours,), (theirs,) = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        self.student_embedding = nn.Linear(ours.shape[1], self.dimension)
        self.teacher_embedding = nn.Linear(theirs.shape[1], self.dimension)
        every = torch.arange(dataset_info.train_size)
        shown = dataset_info.trained if self.negatives_from == "trained" else every
        labels = dataset_info.labels[shown]
        count = torch.bincount(labels, minlength=dataset_info.num_classes)
        if (count > 0).sum() < 2:
            raise ValueError(
                f"CRD draws negatives of other classes and needs at least two; the {len(labels)} samples "
                f"trained on have {int((count > 0).sum())}"
            )
        # a sample that is not trained on has a place beyond the end: an error, never another's row
        place = torch.full((dataset_info.train_size,), len(labels))
        place[shown[labels.argsort(stable=True)]] = torch.arange(len(labels))
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)
        self.register_buffer("key", torch.randint(2**62, ()))
        spread = 1 / math.sqrt(self.dimension / 3)
        # of the student's answers, and of the teacher's
        self.register_buffer("memory", (2 * torch.rand(2, len(labels), self.dimension) - 1) * spread)
        self.register_buffer("normaliser", torch.zeros(2))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Both directions' `crd_loss`: a scalar in nats. In training the memories move on afterwards."""
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        embedded = unit_vectors(self.student_embedding(ours)), unit_vectors(self.teacher_embedding(theirs))
        own = self.place[batch.index]
        rows = self.drawn(batch)
        loss = self._direction(embedded[0], rows, of=1) + self._direction(embedded[1], rows, of=0)
        if self.training:
            for memory, vectors in zip(self.memory, embedded, strict=True):
                moved = self.momentum * memory[own] + (1 - self.momentum) * vectors.detach()
                memory[own] = unit_vectors(moved)
        return loss

    def drawn(self, batch: Batch) -> Tensor:
        """The rows of a memory that each sample is compared with, int64 [N, 1 + K]: the positive, then others'.

        The negatives of a sample are the steps of a walk on the 32-bit integers with a start and a stride of
        its own, both uniform, scaled to the rows of other classes. So each column is uniform and any two are
        independent (to 2^-18): mean and variance of the sum over columns are those of independent draws, for
        less than half the time that a hash per column takes.
        """
        position = (self.key.new_full((), number) for number in (batch.epoch, batch.step))
        three = torch.arange(3, device=self.key.device)
        uniform = draw_integers(0, self.key, *position, batch.index[:, None], three, below=2**_BITS)
        start, count, total = self.start[batch.target], self.count[batch.target], self.memory.shape[1]
        rows = torch.arange(1 + self.negatives, device=self.key.device) * uniform[:, 1:2]
        rows += uniform[:, :1]
        rows &= 2**_BITS - 1
        rows *= (total - count)[:, None]
        rows >>= _BITS
        rows += (start + count)[:, None]  # the class comes last, in a circle that begins behind it
        rows -= total * (rows >= total)
        if self.positives == "exact":
            rows[:, 0] = self.place[batch.index]
        else:
            rows[:, 0] = start + (uniform[:, 2] * count >> _BITS)
        return rows

    def _direction(self, anchors: Tensor, rows: Tensor, of: int) -> Tensor:
        """`crd_loss` of one side's vectors [N, D] against the memory of a side (0 the student's, 1 the teacher's).

        The gradient by the anchors is taken here and now: nothing keeps the scores, or a memory that moves on.
        """
        memory = self.memory[of]
        similarity = _similarities(anchors.detach(), memory, rows)
        with torch.enable_grad():
            similarity.requires_grad_()
            scores = (similarity / self.temperature).exp()
            settled = self.normaliser[of]
            normaliser = torch.where(settled > 0, settled, scores.detach().mean() * len(memory))
            loss = crd_loss(scores / normaliser, len(memory))
            (slope,) = torch.autograd.grad(loss, similarity)
        if self.training:
            self.normaliser[of] = normaliser
        if not anchors.requires_grad:
            return loss.detach()
        return loss.detach() + ((anchors - anchors.detach()) * _weighted(slope, memory, rows)).sum()


def _all_at_once(memory: Tensor, rows: Tensor) -> bool:
    """Whether all inner products cost less than a copy of the rows drawn: [N, K, D] is 537 MB at N = 64."""
    return len(memory) <= 16 * rows.shape[1]


def _similarities(anchors: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
    """<anchors[i], memory[rows[i, k]]>: [N, D], [n, D], [N, K] -> [N, K]."""
    if _all_at_once(memory, rows):
        return (anchors @ memory.mT).gather(1, rows)
    parts = _parts(anchors, memory, rows)
    return torch.cat([(memory[drawn] @ some[:, :, None])[:, :, 0] for some, drawn in parts])


def _weighted(slope: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
    """sum_k slope[i, k] memory[rows[i, k]]: [N, K], [n, D], [N, K] -> [N, D]."""
    if _all_at_once(memory, rows):
        return slope.new_zeros(len(rows), len(memory)).scatter_add_(1, rows, slope) @ memory
    parts = _parts(slope, memory, rows)
    return torch.cat([(some[:, None] @ memory[drawn])[:, 0] for some, drawn in parts])


def _parts(values: Tensor, memory: Tensor, rows: Tensor) -> zip[tuple[Tensor, Tensor]]:
    size = max(1, _GATHERED // (rows.shape[1] * memory.shape[1]))
    return zip(torch.split(values, size), torch.split(rows, size), strict=True)
