"""Generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2024, arXiv:2306.13649, eq. 2)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from kdbench.core.objective import Objective, Paper
from kdbench.core.types import Batch, Outputs
from kdbench.functional.divergences import kl, log_mixture
from kdbench.functional.fused_kernels import check_kernel, generalised_js
from kdbench.utils.validation import check_fraction


def js_loss(student: Tensor, teacher: Tensor, skew: float = 0.1) -> Tensor:
    """Return a KL(q || m) + (1 - a) KL(p || m), where m = (1 - a) p + a q and a = skew, averaged over rows.

    Args:
        student: Student logits [N, C]; no temperature.
        teacher: Teacher logits [N, C].
        skew: Weight of the student in the mixture; 0.1 in the code of DistiLLM and ABKD.

    Returns:
        A scalar in nats.
    """
    log_q, log_p = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
    log_m = log_mixture(log_q, log_p, skew)
    return (skew * kl(log_q, log_m) + (1 - skew) * kl(log_p, log_m)).mean()


class JS(Objective):
    """`js_loss` as an objective.

    Args:
        skew: Weight of the student in the mixture.
        kernel: `torch`, or `liger` on CUDA (`kdbench.functional.fused_kernels`).

    Raises:
        ValueError: If `skew` is not in (0, 1), where the divergence would be 0 at both ends, or the kernel is
            unknown or not installed.
    """

    paper = Paper(
        "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", 2024, "2306.13649"
    )
    formula = "a KL(q || m) + (1 - a) KL(p || m), m = (1 - a) p + a q, a = skew"
    defaults_from = "the code of DistiLLM and ABKD for GPT-2 (skew 0.1)"
    disagreements = (
        "The paper's beta is 1 - skew: its mixture is beta p + (1 - beta) q. The parameter is named as in "
        "the code of DistiLLM and ABKD, whose 0.1 is the default; TRL's default is 0.5.",
    )
    f_divergence = True
    neutral_options: ClassVar[Mapping[str, Any]] = {"kernel": "torch"}

    def __init__(self, skew: float = 0.1, kernel: str = "torch") -> None:
        super().__init__()
        check_kernel(kernel)
        self.kernel = kernel
        check_fraction("JS", closed="neither", skew=skew)
        self.skew = skew

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `js_loss` of the logits: a scalar in nats."""
        if self.kernel == "liger":
            return generalised_js(student.logits, teacher.logits, 1 - self.skew)
        return js_loss(student.logits, teacher.logits, self.skew)
