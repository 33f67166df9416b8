"""Logits in three forms behind one protocol: dense, projected on demand, or the teacher's top k."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

TAIL_FLOOR = -1e4
"""Stands for the log-mass of a tail whose mass is 0, in nats."""


class Logits(ABC):
    """The answers of one side to N rows over C classes, in whichever form they are known."""

    __slots__ = ()

    is_materialized: ClassVar[bool] = True
    """Whether the logits of all rows exist already; False where they are computed on demand."""

    is_complete: ClassVar[bool] = True
    """Whether every class has a logit of its own; False for a top-k distribution."""

    num_classes: int
    """The number of classes C."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the tensors behind the logits."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows N."""

    @abstractmethod
    def rows(self, span: slice) -> Self:
        """Return the logits of these rows."""

    @abstractmethod
    def detach(self) -> Self:
        """Return the same logits without gradient."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the logits of all rows as one tensor [N, C]."""

    @abstractmethod
    def float32(self) -> Logits:
        """Return dense logits in float32; float64 and top-k logits stay as they are."""

    def chunks(self, rows: int) -> Iterator[tuple[slice, Self]]:
        """Yield consecutive spans of at most `rows` rows, with their logits."""
        for start in range(0, len(self), rows):
            span = slice(start, start + rows)
            yield span, self.rows(span)

    @abstractmethod
    def leaves(self) -> tuple[Tensor, ...]:
        """Return the tensors that the logits are computed from and that may want a gradient."""

    @abstractmethod
    def add_gradient(self, gradients: Sequence[Tensor], span: slice, gradient: Tensor) -> None:
        """Add to the gradients of `leaves` what follows from the gradient [n, C] of the logits of `span`."""

    def pair_with(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """Return student and teacher logits over the classes that this side, the teacher, knows.

        Args:
            student: The student's dense logits, [N, C].

        Returns:
            Two tensors of one shape: [N, C], or [N, k + 1] where only the top k classes are known.
        """
        return student, self.dense()


@dataclass(frozen=True, slots=True)
class DenseLogits(Logits):
    """Logits that are a tensor.

    Attributes:
        values: [N, C], or [B, T, C] for texts in their padded form.
    """

    values: Tensor

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """The number of classes C."""
        return self.values.shape[-1]

    @property
    def device(self) -> torch.device:
        """The device of the tensor."""
        return self.values.device

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, span: slice) -> DenseLogits:
        """Return the logits of these rows."""
        return DenseLogits(self.values[span])

    def detach(self) -> DenseLogits:
        """Return the same logits without gradient."""
        return DenseLogits(self.values.detach())

    def dense(self) -> Tensor:
        """Return the tensor itself."""
        return self.values

    def float32(self) -> DenseLogits:
        """Return the logits in float32; float64 stays."""
        return DenseLogits(self.values if self.values.dtype == torch.float64 else self.values.float())

    def leaves(self) -> tuple[Tensor, ...]:
        """Return the tensor itself."""
        return (self.values,)

    def add_gradient(self, gradients: Sequence[Tensor], span: slice, gradient: Tensor) -> None:
        """Write the gradient of these rows."""
        gradients[0][span] = gradient


@dataclass(frozen=True, slots=True)
class ProjectedLogits(Logits):
    """Logits that the last linear layer computes on demand, in the precision of the hidden states.

    For a large vocabulary the logits of all rows would fill the memory, so a loss asks for a few rows at a time
    (`kdbench.losses.chunked`).

    Attributes:
        hidden: The input of the last layer, [N, D].
        weight: Its weight, [C, D].
        bias: Its bias, [C], or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    is_materialized: ClassVar[bool] = False

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """The number of classes C."""
        return len(self.weight)

    @property
    def device(self) -> torch.device:
        """The device of the hidden states."""
        return self.hidden.device

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, span: slice) -> ProjectedLogits:
        """Return the logits of these rows, still to be computed."""
        return ProjectedLogits(self.hidden[span], self.weight, self.bias)

    def detach(self) -> ProjectedLogits:
        """Return the same logits without gradient."""
        bias = None if self.bias is None else self.bias.detach()
        return ProjectedLogits(self.hidden.detach(), self.weight.detach(), bias)

    def dense(self) -> Tensor:
        """Compute the logits of all rows, [N, C]."""
        dtype = self.hidden.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(self.hidden, self.weight.to(dtype), bias)

    def float32(self) -> DenseLogits:
        """Compute the logits, and return them in float32; float64 stays."""
        return DenseLogits(self.dense()).float32()

    def leaves(self) -> tuple[Tensor, ...]:
        """Return hidden states, weight, and bias where there is one."""
        return (self.hidden, self.weight) if self.bias is None else (self.hidden, self.weight, self.bias)

    def add_gradient(self, gradients: Sequence[Tensor], span: slice, gradient: Tensor) -> None:
        """Propagate the gradient of these rows to hidden states, weight and bias."""
        gradients[0][span] = gradient @ self.weight.to(gradient.dtype)
        gradients[1].addmm_(gradient.to(self.weight.dtype).T, self.hidden[span].to(self.weight.dtype))
        if self.bias is not None:
            gradients[2].add_(gradient.sum(dim=0))


@dataclass(frozen=True, slots=True)
class TopKLogits(Logits):
    """Top-k teacher distributions; the mass of all other classes is one bucket.

    A divergence sum q f(p/q) over the k + 1 buckets equals the divergence over all C classes from the teacher whose
    tail is spread as the student spreads its own. It never exceeds the divergence from the true teacher, and equals it
    at k = C. This holds only at the temperature of the stored log-probabilities.

    Attributes:
        indices: The k most likely classes of each row, int64 [N, k].
        log_probs: Their log-probabilities in nats, [N, k].
        tail: The log of the mass of all other classes, [N]; meaningless for k = C.
        num_classes: The number of classes C.
    """

    indices: Tensor
    log_probs: Tensor
    tail: Tensor
    num_classes: int
    is_complete: ClassVar[bool] = False

    @classmethod
    def from_dense(cls, logits: Tensor, k: int) -> TopKLogits:
        """Keep the k most likely classes of each row of logits [N, C], 1 <= k <= C."""
        log_p = F.log_softmax(logits, dim=-1)
        log_probs, indices = log_p.topk(k, dim=-1)
        return cls(indices, log_probs, _tail(log_p, indices), logits.shape[-1])

    @property
    def device(self) -> torch.device:
        """The device of the log-probabilities."""
        return self.tail.device

    def __len__(self) -> int:
        return len(self.tail)

    def rows(self, span: slice) -> TopKLogits:
        """Return the distributions of these rows."""
        return TopKLogits(self.indices[span], self.log_probs[span], self.tail[span], self.num_classes)

    def detach(self) -> TopKLogits:
        """Return the same distributions without gradient."""
        return TopKLogits(self.indices, self.log_probs.detach(), self.tail.detach(), self.num_classes)

    def dense(self) -> Tensor:
        """Raise TypeError: most classes are unknown."""
        raise TypeError(f"only the top {self.indices.shape[-1]} classes of each row are known")

    def float32(self) -> TopKLogits:
        """Return the distributions as they are: they are stored in float32."""
        return self

    def leaves(self) -> tuple[Tensor, ...]:
        """Return no tensor: top-k distributions belong to a teacher."""
        return ()

    def add_gradient(self, gradients: Sequence[Tensor], span: slice, gradient: Tensor) -> None:
        """Raise TypeError: top-k distributions belong to a teacher."""
        raise TypeError("top-k logits have no gradient")

    def pair_with(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of both sides over the teacher's k classes and all others as one bucket.

        Log-probabilities are logits too: every objective with `f_divergence` takes them.

        Args:
            student: The student's dense logits, [N, C].

        Returns:
            Two tensors [N, k + 1]; [N, k] where k = C.
        """
        log_q = F.log_softmax(student, dim=-1)
        own = log_q.gather(-1, self.indices)
        if self.indices.shape[-1] == student.shape[-1]:
            return own, self.log_probs
        tail = self.tail.clamp(min=TAIL_FLOOR)[..., None]
        others = _tail(log_q, self.indices)[..., None]
        return torch.cat((own, others), dim=-1), torch.cat((self.log_probs, tail), dim=-1)


def as_logits(value: Tensor | Logits) -> Logits:
    """Return `value` itself, or a tensor as dense logits."""
    return DenseLogits(value) if isinstance(value, Tensor) else value


def concatenate_top_k(parts: Sequence[TopKLogits]) -> TopKLogits:
    """Join the rows of several top-k distributions over the same classes."""
    return TopKLogits(
        torch.cat([part.indices for part in parts]),
        torch.cat([part.log_probs for part in parts]),
        torch.cat([part.tail for part in parts]),
        parts[0].num_classes,
    )


def _tail(log_probabilities: Tensor, indices: Tensor) -> Tensor:
    """Return the log-mass of the classes not in `indices`; -inf where there are none."""
    # 1 - exp(...) of the complement would lose a small tail to rounding
    return log_probabilities.scatter(-1, indices, -torch.inf).logsumexp(dim=-1)
