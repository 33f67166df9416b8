"""CRD (Tian et al. 2020, arXiv:1910.10699): contrastive distillation against memories of features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.functional.feature_maps import unit_vectors
from kdbench.utils.seeding import draw_integers
from kdbench.utils.validation import check_at_least, check_choice, check_fraction, check_positive

_BITS = 32
_FLOATS_AT_ONCE = 2**24
"""Number of floats that are copied out of a memory at a time."""


def crd_loss(scores: Tensor, train_size: int) -> Tensor:
    """Return one direction of CRD: -[log h(positive) + sum log(1 - h(negative))], averaged over rows.

    h(P) = P / (P + c + 1e-7) with c = K / train_size.

    Args:
        scores: Exponentiated and normalised similarities [N, 1 + K], the positive first.
        train_size: Number of samples that a negative is drawn from; the noise is uniform over them.

    Returns:
        A scalar in nats.
    """
    noise = (scores.shape[1] - 1) / train_size
    positive, negatives = scores[:, 0], scores[:, 1:]
    # log1p: thousands of terms close to 0 would be lost in log(1 + x)
    positive_term = torch.log1p((noise + 1e-7) / positive)
    negative_terms = torch.log1p((negatives + 1e-7) / noise).sum(dim=1)
    return (positive_term + negative_terms).mean()


class CRD(Objective):
    """`crd_loss` of each side's embedded pooled features against a memory of the other side's, summed.

    Each memory has one row per training sample, ordered by class.

    Args:
        dimension: Width of the embeddings and memories.
        negatives: K, the number of negatives drawn for each sample among the other classes.
        temperature: Divides the cosine similarities.
        momentum: Fraction of its old value that a memory row keeps when its sample is seen.
        positives: `exact` takes the sample itself, `relax` any sample of its class.
        negatives_from: `trained` draws among the samples that are trained on, `all` among the full training
            set.

    Raises:
        ValueError: If `dimension` or `negatives` is below 1, `temperature` is not positive and finite,
            `momentum` is not in [0, 1), or a choice is unknown.
    """

    paper = Paper("Contrastive Representation Distillation", 2020, "1910.10699")
    formula = (
        "sum over both directions of -log h(P_0) - sum_k log(1 - h(P_k)), h(P) = P / (P + K/n), "
        "P = exp(<v, m>/T) / Z"
    )
    defaults_from = (
        "RepDistiller: dimension 128, 16384 negatives, temperature 0.07, momentum 0.5, exact positives"
    )
    disagreements = (
        "RepDistiller draws negatives without replacement in the data loader. Here they are drawn on the "
        "device, with replacement, as a function of (epoch, step, sample).",
        "RepDistiller draws negatives from the full training set and divides by its size, also in MCMI's "
        "few-shot runs. Here the samples that are trained on count, which are fewer where some are held out "
        "or left out by a protocol (negatives_from=all restores the published behaviour).",
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
    neutral_options: ClassVar[Mapping[str, Any]] = {"negatives_from": "trained"}

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
        check_at_least("CRD", 1, dimension=dimension, negatives=negatives)
        check_positive("CRD", temperature=temperature)
        check_fraction("CRD", closed="left", momentum=momentum)
        check_choice("CRD", ("exact", "relax"), positives=positives)
        check_choice("CRD", ("trained", "all"), negatives_from=negatives_from)
        self.dimension, self.negatives, self.positives = dimension, negatives, positives
        self.negatives_from = negatives_from
        self.temperature, self.momentum = temperature, momentum

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the embeddings and the memories.

        Raises:
            ValueError: If the training data has fewer than two classes.
        """
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
                f"CRD: negatives come from other classes, but the {len(labels)} training samples have "
                f"{int((count > 0).sum())} class; train on at least two classes"
            )
        # Samples that are not trained on point past the end: an error instead of another sample's row.
        place = torch.full((dataset_info.train_size,), len(labels))
        place[shown[labels.argsort(stable=True)]] = torch.arange(len(labels))
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)
        self.register_buffer("key", torch.randint(2**62, ()))
        spread = 1 / math.sqrt(self.dimension / 3)
        # [0] holds the student's vectors, [1] the teacher's
        self.register_buffer("memory", (2 * torch.rand(2, len(labels), self.dimension) - 1) * spread)
        self.register_buffer("normaliser", torch.zeros(2))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum of both directions: a scalar in nats.

        In training the memories are updated afterwards.
        """
        (ours,), (theirs,) = (
            student.select_features(self.student_features),
            teacher.select_features(self.teacher_features),
        )
        embedded = unit_vectors(self.student_embedding(ours)), unit_vectors(self.teacher_embedding(theirs))
        own = self.place[batch.index]
        rows = self.draw_rows(batch)
        loss = self._direction(embedded[0], rows, of=1) + self._direction(embedded[1], rows, of=0)
        if self.training:
            for memory, vectors in zip(self.memory, embedded, strict=True):
                moved = self.momentum * memory[own] + (1 - self.momentum) * vectors.detach()
                memory[own] = unit_vectors(moved)
        return loss

    def draw_rows(self, batch: Batch) -> Tensor:
        """Draw the memory rows that each sample is compared with: int64 [N, 1 + K], the positive first.

        The negatives of a sample are the steps of a walk on the 32-bit integers with a uniform start and
        stride, scaled to the rows of the other classes. Each column is uniform and any two columns are
        independent (to 2^-18), so the sum over columns has the mean and variance of independent draws, in
        less than half the time of one hash per column.
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
        rows += (start + count)[:, None]  # count from the end of the sample's own class, cyclically
        rows -= total * (rows >= total)
        if self.positives == "exact":
            rows[:, 0] = self.place[batch.index]
        else:
            rows[:, 0] = start + (uniform[:, 2] * count >> _BITS)
        return rows

    def _direction(self, anchors: Tensor, rows: Tensor, of: int) -> Tensor:
        """Return `crd_loss` of one side's vectors [N, D] against the memory of a side.

        `of` is the side of the memory: 0 for the student's, 1 for the teacher's.

        The gradient with respect to the anchors is computed here, so the graph keeps neither the scores nor a
        memory that is updated later.
        """
        memory = self.memory[of]
        similarity = _similarities(anchors.detach(), memory, rows)
        with torch.enable_grad():
            similarity.requires_grad_()
            scores = (similarity / self.temperature).exp()
            previous = self.normaliser[of]
            normaliser = torch.where(previous > 0, previous, scores.detach().mean() * len(memory))
            loss = crd_loss(scores / normaliser, len(memory))
            (slope,) = torch.autograd.grad(loss, similarity)
        if self.training:
            self.normaliser[of] = normaliser
        if not anchors.requires_grad:
            return loss.detach()
        return loss.detach() + ((anchors - anchors.detach()) * _weighted(slope, memory, rows)).sum()


def _all_at_once(memory: Tensor, rows: Tensor) -> bool:
    """Return whether all inner products cost less than copying the drawn rows.

    A copy [N, K, D] is 537 MB at N = 64.
    """
    return len(memory) <= 16 * rows.shape[1]


def _similarities(anchors: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
    """Return <anchors[i], memory[rows[i, k]]>: [N, D], [n, D], [N, K] -> [N, K]."""
    if _all_at_once(memory, rows):
        return (anchors @ memory.mT).gather(1, rows)
    parts = _parts(anchors, memory, rows)
    return torch.cat([(memory[index] @ part[:, :, None])[:, :, 0] for part, index in parts])


def _weighted(slope: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
    """Return sum_k slope[i, k] memory[rows[i, k]]: [N, K], [n, D], [N, K] -> [N, D]."""
    if _all_at_once(memory, rows):
        return slope.new_zeros(len(rows), len(memory)).scatter_add_(1, rows, slope) @ memory
    parts = _parts(slope, memory, rows)
    return torch.cat([(part[:, None] @ memory[index])[:, 0] for part, index in parts])


def _parts(values: Tensor, memory: Tensor, rows: Tensor) -> zip[tuple[Tensor, Tensor]]:
    size = max(1, _FLOATS_AT_ONCE // (rows.shape[1] * memory.shape[1]))
    return zip(torch.split(values, size), torch.split(rows, size), strict=True)
