"""Operations on feature maps [N, C, H, W] that several objectives share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.linalg import vector_norm


def pool_to_smaller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller one's height: the larger is averaged adaptively, as RepDistiller does."""
    if a.shape[-2:] == b.shape[-2:]:
        return a, b
    if a.shape[-2] > b.shape[-2]:
        return F.adaptive_avg_pool2d(a, (b.shape[-2], b.shape[-1])), b
    return a, F.adaptive_avg_pool2d(b, (a.shape[-2], a.shape[-1]))


def hint_regressor(student: Tensor, teacher: Tensor, relu: bool = True) -> nn.Sequential:
    """Return a convolution from the student's map to the shape of the teacher's, and BatchNorm.

    As RepDistiller's ConvReg: a student map of twice the height has stride 2, one of half the height a transposed
    convolution, and one that is higher by d a kernel of 1 + d.

    Args:
        student: A map of the student [N, C, H, W].
        teacher: A map of the teacher.
        relu: Append a ReLU.

    Raises:
        ValueError: None of these convolutions fits.
    """
    inputs, s = student.shape[1], student.shape[-2]
    outputs, t = teacher.shape[1], teacher.shape[-2]
    if s == 2 * t:
        convolution: nn.Module = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    elif 2 * s == t:
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    elif s >= t:
        convolution = nn.Conv2d(inputs, outputs, 1 + s - t)
    else:
        raise ValueError(
            f"no regressor leads from the student's map {list(student.shape[1:])} to the teacher's "
            f"{list(teacher.shape[1:])}: the student's must be as high, higher, or half as high"
        )
    layers = [convolution, BatchNorm(outputs), *([nn.ReLU(inplace=True)] if relu else [])]
    return nn.Sequential(*layers)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Divide vectors [..., D] by their Euclidean norm; vectors shorter than 1e-12 are left unchanged.

    Below that F.normalize divides by 1e-12, and multiplies the gradient of a vector of zeros by 1e12.
    """
    norm: Tensor = vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.masked_fill(norm < 1e-12, 1.0)


def sum_by_depth(stages: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum of one scalar per stage: the deepest has weight 1, each other one half of the next."""
    return torch.stack([stage * 2.0 ** (1 - depth) for depth, stage in enumerate(reversed(stages), 1)]).sum()


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that also trains on a single value per channel: by its running statistics, left as they are.

    One row whose map is 1 x 1 has no variance; torch's own raises there. The last batch of an epoch can be such.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
