"""A teacher that is known by its likeliest classes: both sides with all other classes as one.

A divergence sum q f(p/q) of the k + 1 buckets is exactly that of all C classes from the teacher whose tail is spread
as the student spreads its own; it is never larger than that of the true teacher, and equal to it at k = C. Nothing can
be said so at another temperature than that of the stored log-probabilities.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.logits import TopK

TAIL_FLOOR = -1e4
"""For the log-mass of a tail that is stored as 0."""


def topk_of(logits: Tensor, k: int) -> TopK:
    """The k likeliest classes of each row of logits [N, C], 1 <= k <= C, with the mass of all others."""
    log_p = F.log_softmax(logits, dim=-1)
    log_probs, indices = log_p.topk(k, dim=-1)
    return TopK(indices, log_probs, _others(log_p, indices))


def bucketed(student: Tensor, teacher: TopK) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both sides over the teacher's k classes and all others as one: two times [N, k + 1].

    student: logits [N, C]. Log-probabilities are logits too: every objective with `f_divergence` takes them. [N, k]
    where k = C.
    """
    log_q = F.log_softmax(student, dim=-1)
    own = log_q.gather(-1, teacher.indices)
    if teacher.indices.shape[-1] == student.shape[-1]:
        return own, teacher.log_probs
    tail = teacher.tail.clamp(min=TAIL_FLOOR)[..., None]
    others = _others(log_q, teacher.indices)[..., None]
    return torch.cat((own, others), dim=-1), torch.cat((teacher.log_probs, tail), dim=-1)


def _others(log_probabilities: Tensor, indices: Tensor) -> Tensor:
    """The log-mass of the classes that are not among these; -inf where there are none."""
    # 1 - exp(...) of the others' complement would lose a small tail in the rounding
    return log_probabilities.scatter(-1, indices, -torch.inf).logsumexp(dim=-1)
