"""ViTKD, Yang et al. 2022, arXiv:2209.02432: alpha ||align(F_s) - F_t||^2 shallow + beta ||G(masked) - F_t||^2 deep."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.utils.seeding import draw_integers


def vitkd_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    alpha: float = 3e-5,
    beta: float = 3e-6,
    ratio: float = 0.5,
) -> Tensor:
    """alpha * sum((s - t)^2) over the shallow maps + beta / ratio * sum over masked tokens of the deepest, / N.

    student, teacher: token maps [N, C, H, W] of one shape, the deepest last; the student's are aligned, the
    last one generated from what `mask` [N, H, W] leaves (true for a token that was masked, about `ratio` of
    them). Returns a scalar in squared units of the maps, summed over channels and tokens, averaged over rows.
    ValueError where one side has more maps.
    """
    errors = [(s - t).square() for s, t in zip(student, teacher, strict=True)]
    *shallow, deepest = errors
    mimicked = torch.stack([error.sum() for error in shallow]).sum()
    generated = (deepest * mask[:, None]).sum()
    return (alpha * mimicked + beta / ratio * generated) / len(mask)


def _aligner(student: Tensor, teacher: Tensor) -> nn.Module:
    """A linear layer for each token where the widths differ."""
    inputs, outputs = student.shape[1], teacher.shape[1]
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)


def _final_norm(teacher: nn.Module, channels: int) -> nn.Module:
    """A frozen copy of the LayerNorm that a ViT ends in, if it has one."""
    norm = getattr(teacher, "norm", None)
    if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (channels,):
        return copy.deepcopy(norm).requires_grad_(False)
    return nn.Identity()


class ViTKD(Objective):
    """`vitkd_loss` of the tokens of the first two blocks and of the last, with aligners and a generator.

    alpha, beta: weights of the shallow and the deep part. ratio: the share of tokens that is masked, drawn
    anew for each row and step; the generator, two 3x3 convolutions, fills them in from their neighbours.
    Raises ValueError unless 0 <= alpha, beta < inf and 0 < ratio <= 1; in `setup`, where the token grids of the
    two sides differ.
    """

    paper = Paper("ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation", 2022, "2209.02432")
    formula = "(alpha sum_{l=1,2} ||align(F_s) - F_t||^2 + beta/ratio ||mask * (G(masked F_s) - F_t)||^2) / N"
    defaults_from = "the authors' ImageNet configurations: alpha 3e-5, beta 3e-6, ratio 0.5"
    disagreements = (
        "The authors compare the last block after the final LayerNorm on both sides; this file after it for the "
        "teacher (a frozen copy), before it for the student, whose feature it is.",
        "In a network that is no ViT, the first two and the last stage are compared.",
    )
    needs = ("features", "index", "epoch", "step")
    student_features = teacher_features = ("stage1", "stage2", "stage-1")
    key: Tensor

    def __init__(self, alpha: float = 3e-5, beta: float = 3e-6, ratio: float = 0.5) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value < math.inf:
                raise ValueError(f"ViTKD: {name} must be finite and not negative, got {value}")
        if not 0 < ratio <= 1:
            raise ValueError(f"ViTKD: ratio must be above 0 and at most 1, got {ratio}")
        self.alpha, self.beta, self.ratio = alpha, beta, ratio

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Make the aligners, the mask token and the generator, and draw the masks' key."""
        ours, theirs = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        if [feature.shape[-2:] for feature in ours] != [feature.shape[-2:] for feature in theirs]:
            grids = [[list(feature.shape[-2:]) for feature in side] for side in (ours, theirs)]
            raise ValueError(
                f"ViTKD compares token with token: the student's grids are {grids[0]}, the teacher's {grids[1]}; "
                "it takes two ViTs with patches of one size"
            )
        width = theirs[-1].shape[1]
        self.register_buffer("key", torch.randint(2**62, ()))
        self.aligners = nn.ModuleList(map(_aligner, ours, theirs))
        self.mask_token = nn.Parameter(torch.zeros(width, 1, 1))
        first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.generator = nn.Sequential(first, nn.ReLU(), second)
        self.norm = _final_norm(teacher, width)

    def mask(self, batch: Batch, height: int, width: int) -> Tensor:
        """Which tokens [N, H, W] are masked: the same number in every row, by epoch, step and sample alone."""
        tokens = height * width
        position = torch.arange(tokens, device=batch.index.device)
        epoch, step = (torch.full_like(position, number) for number in (batch.epoch, batch.step))
        # the key is a coordinate as well, so that it never has to leave its device
        noise = draw_integers(0, self.key, epoch, step, batch.index[:, None], position, below=2**40)
        kept = int(tokens * (1 - self.ratio))
        masked = torch.ones_like(noise, dtype=torch.bool)
        return masked.scatter(1, noise.argsort(dim=1)[:, :kept], False).view(-1, height, width)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """`vitkd_loss` of the aligned and the generated tokens: a scalar in squared units of the maps."""
        features = zip(self.aligners, student.select_features(self.student_features), strict=True)
        *shallow, deepest = [align(feature) for align, feature in features]
        *targets, last = teacher.select_features(self.teacher_features)
        last = self.norm(last.movedim(1, -1)).movedim(-1, 1)
        mask = self.mask(batch, *deepest.shape[-2:])
        generated = self.generator(torch.where(mask[:, None], self.mask_token, deepest))
        return vitkd_loss([*shallow, generated], [*targets, last], mask, self.alpha, self.beta, self.ratio)
