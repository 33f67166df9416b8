"""Pad, crop and flip as one gather on the device, driven by an explicit view of each row."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.types import View
from kdbench.utils.seeding import derive, draw_integers


def zero_pad(images: Tensor, padding: int) -> Tensor:
    """uint8 [N, 3, H, W] -> [N, 3, H + 2p, W + 2p] in channels_last, which `crop_flip` is fast on."""
    return F.pad(images, [padding] * 4).contiguous(memory_format=torch.channels_last)


def view_count(padding: int) -> int:
    """The number of different views of one image: every crop offset, flipped or not."""
    return (2 * padding + 1) ** 2 * 2


def view_of(number: Tensor, padding: int) -> View:
    """The views numbered int64 [N] in [0, view_count)."""
    offsets = 2 * padding + 1
    crop = number // 2
    return View(dy=crop // offsets, dx=crop % offsets, flip=number % 2)


def view_number(view: View, padding: int) -> Tensor:
    """The numbers int64 [N] of views: the inverse of `view_of`."""
    return (view.dy * (2 * padding + 1) + view.dx) * 2 + view.flip


def draw_view(seed: int, epoch: int, index: Tensor, occurrence: Tensor, padding: int) -> View:
    """One uniform view per row, a function of (seed, epoch, index [N], occurrence [N]) alone.

    The occurrence tells apart the times that a protocol repeats an image within one epoch.
    """
    number = draw_integers(derive(seed, "view", epoch), index, occurrence, below=view_count(padding))
    return view_of(number, padding)


def crop_flip(padded: Tensor, index: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """Rows `index` [B] of padded images uint8 [N, 3, H + 2p, W + 2p], cropped to size (H, W), then flipped.

    Returns uint8 [B, 3, H, W] in channels_last. Right in any layout; fast where `padded` is channels_last,
    because then the pixels are rows of a matrix [N * H' * W', 3] and the whole batch is one `index_select`.
    """
    height, width = size
    _, channels, padded_height, padded_width = padded.shape
    across = torch.arange(width, device=padded.device)
    x = view.dx[:, None] + torch.where(view.flip[:, None].bool(), width - 1 - across, across)
    y = view.dy[:, None] + torch.arange(height, device=padded.device)
    pixel = ((index[:, None] * padded_height + y) * padded_width)[:, :, None] + x[:, None, :]
    matrix = padded.permute(0, 2, 3, 1).reshape(-1, channels)
    crops = matrix.index_select(0, pixel.flatten()).view(len(index), height, width, channels)
    return crops.permute(0, 3, 1, 2)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> (images / 255 - mean) / std, float32 in channels_last; mean, std: float32 [3]."""
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return torch.addcmul((-mean / std).view(-1, 1, 1), pixels, (1 / (255 * std)).view(-1, 1, 1))
