"""ViTKD (Yang et al. 2022, arXiv:2209.02432): mimic shallow tokens, generate masked deep tokens."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Paper, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.utils.seeding import draw_integers
from kdbench.utils.validation import check_fraction, check_non_negative


def vitkd_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor,
    alpha: float = 3e-5,
    beta: float = 3e-6,
    ratio: float = 0.5,
) -> Tensor:
    """Return the mimicking loss of the shallow maps plus the generation loss of the deepest map.

    The value is (alpha * sum((s - t)^2) over the shallow maps + beta / ratio * the same sum over the
    masked
    tokens of the deepest map) / N.

    Args:
        student: Aligned token maps [N, C, H, W], the deepest last; the last one is generated from the tokens
            that `mask` leaves.
        teacher: The teacher's token maps of the same shapes.
        mask: bool [N, H, W], true for masked tokens.
        alpha: Weight of the shallow maps.
        beta: Weight of the deepest map.
        ratio: Fraction of tokens that is masked.

    Returns:
        A scalar in squared units of the maps: a sum over channels and tokens, averaged over rows.

    Raises:
        ValueError: If one side has more maps.
    """
    errors = [(s - t).square() for s, t in zip(student, teacher, strict=True)]
    *shallow, deepest = errors
    mimicking = torch.stack([error.sum() for error in shallow]).sum()
    generation = (deepest * mask[:, None]).sum()
    return (alpha * mimicking + beta / ratio * generation) / len(mask)


def _aligner(student: Tensor, teacher: Tensor) -> nn.Module:
    """Return a linear layer per token if the widths differ, else the identity."""
    inputs, outputs = student.shape[1], teacher.shape[1]
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)


def _final_norm(teacher: nn.Module, channels: int) -> nn.Module:
    """Return a frozen copy of the teacher's final LayerNorm if it has one, else the identity."""
    norm = getattr(teacher, "norm", None)
    if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (channels,):
        return copy.deepcopy(norm).requires_grad_(False)
    return nn.Identity()


class ViTKD(Objective):
    """`vitkd_loss` of the tokens of the first two blocks and of the last, with aligners and a generator.

    The generator, two 3x3 convolutions, fills masked tokens in from their neighbours. `setup` raises
    ValueError if the token grids of the two sides differ.

    Args:
        alpha: Weight of the shallow part.
        beta: Weight of the deep part.
        ratio: Fraction of tokens that is masked, drawn anew for each row and step.

    Raises:
        ValueError: If `alpha` or `beta` is negative or not finite, or `ratio` is not in (0, 1].
    """

    paper = Paper("ViTKD: Practical Guidelines for ViT Feature Knowledge Distillation", 2022, "2209.02432")
    formula = "(alpha sum_{l=1,2} ||align(F_s) - F_t||^2 + beta/ratio ||mask * (G(masked F_s) - F_t)||^2) / N"
    defaults_from = "the authors' ImageNet configurations: alpha 3e-5, beta 3e-6, ratio 0.5"
    high_cost = "3x3 convolutions on a map of tokens"
    disagreements = (
        "The authors compare the last block after the final LayerNorm on both sides. kdbench compares after "
        "it for the teacher (a frozen copy) and before it for the student, whose feature it is.",
        "In a network that is not a ViT, the first two and the last stage are compared.",
    )
    needs = ("features", "index", "epoch", "step")
    student_features = teacher_features = ("stage1", "stage2", "stage-1")
    key: Tensor

    def __init__(self, alpha: float = 3e-5, beta: float = 3e-6, ratio: float = 0.5) -> None:
        super().__init__()
        check_non_negative("ViTKD", alpha=alpha, beta=beta)
        check_fraction("ViTKD", closed="right", ratio=ratio)
        self.alpha, self.beta, self.ratio = alpha, beta, ratio

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo
    ) -> None:
        """Create the aligners, the mask token and the generator, and draw the key of the masks.

        Raises:
            ValueError: If the token grids of the two sides differ.
        """
        ours, theirs = (
            probes.student.select_features(self.student_features),
            probes.teacher.select_features(self.teacher_features),
        )
        if [feature.shape[-2:] for feature in ours] != [feature.shape[-2:] for feature in theirs]:
            grids = [[list(feature.shape[-2:]) for feature in side] for side in (ours, theirs)]
            raise ValueError(
                f"ViTKD: the token grids must agree; the student's are {grids[0]}, the teacher's {grids[1]}. "
                "Choose two ViTs with the same patch size"
            )
        width = theirs[-1].shape[1]
        self.register_buffer("key", torch.randint(2**62, ()))
        self.aligners = nn.ModuleList(map(_aligner, ours, theirs))
        self.mask_token = nn.Parameter(torch.zeros(width, 1, 1))
        first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.generator = nn.Sequential(first, nn.ReLU(), second)
        self.norm = _final_norm(teacher, width)

    def mask(self, batch: Batch, height: int, width: int) -> Tensor:
        """Return which tokens are masked, bool [N, H, W], equally many in each row.

        It is a function of epoch, step and sample.
        """
        tokens = height * width
        position = torch.arange(tokens, device=batch.index.device)
        epoch, step = (torch.full_like(position, number) for number in (batch.epoch, batch.step))
        # the key is passed as a coordinate, so it stays on its device
        noise = draw_integers(0, self.key, epoch, step, batch.index[:, None], position, below=2**40)
        visible = int(tokens * (1 - self.ratio))
        masked = torch.ones_like(noise, dtype=torch.bool)
        return masked.scatter(1, noise.argsort(dim=1)[:, :visible], False).view(-1, height, width)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return `vitkd_loss` of the aligned and the generated tokens: a scalar in squared units of the maps."""
        features = zip(self.aligners, student.select_features(self.student_features), strict=True)
        *shallow, deepest = [align(feature) for align, feature in features]
        *targets, last = teacher.select_features(self.teacher_features)
        last = self.norm(last.movedim(1, -1)).movedim(-1, 1)
        mask = self.mask(batch, *deepest.shape[-2:])
        generated = self.generator(torch.where(mask[:, None], self.mask_token, deepest))
        return vitkd_loss([*shallow, generated], [*targets, last], mask, self.alpha, self.beta, self.ratio)
