"""Padding, cropping and flipping of a batch as one gather on the device, by an explicit view of each row."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.core.types import View
from kdbench.utils.seeding import derive, draw_integers


def zero_pad(images: Tensor, padding: int) -> Tensor:
    """Pad images with zeros: uint8 [N, 3, H, W] -> [N, 3, H + 2p, W + 2p] in channels_last, for `crop_flip`."""
    return F.pad(images, [padding] * 4).contiguous(memory_format=torch.channels_last)


def view_count(padding: int) -> int:
    """Return the number of different views of one image: all crop offsets, with and without flip."""
    return (2 * padding + 1) ** 2 * 2


def view_of(number: Tensor, padding: int) -> View:
    """Return the views with these numbers, int64 [N] in [0, view_count)."""
    offsets = 2 * padding + 1
    crop = number // 2
    return View(dy=crop // offsets, dx=crop % offsets, flip=number % 2)


def view_number(view: View, padding: int) -> Tensor:
    """Return the numbers of views, int64 [N]; the inverse of `view_of`."""
    return (view.dy * (2 * padding + 1) + view.dx) * 2 + view.flip


def draw_view(seed: int, epoch: int, index: Tensor, occurrence: Tensor, padding: int) -> View:
    """Draw a uniform view for each row, as a function of (seed, epoch, index, occurrence) alone.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 1.
        index: Image of each row, int64 [N].
        occurrence: How often the epoch has shown the image before, int64 [N]; protocols can repeat images.
        padding: Padding of the images, in pixels.
    """
    number = draw_integers(derive(seed, "view", epoch), index, occurrence, below=view_count(padding))
    return view_of(number, padding)


def crop_flip(padded: Tensor, index: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """Crop and flip a batch of images.

    The layout of `padded` does not matter for the result. In channels_last the function is fast, because the
    pixels are then rows of a matrix [N * H' * W', 3], and the batch is one `index_select`.

    Args:
        padded: uint8 [N, 3, H + 2p, W + 2p].
        index: Images of the batch, int64 [B].
        view: Crop and flip of each.
        size: Height and width of the crops, (H, W).

    Returns:
        uint8 [B, 3, H, W] in channels_last.
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
    """Normalise images: uint8 [N, 3, H, W] -> (images / 255 - mean) / std, float32 in channels_last.

    `mean` and `std` are float32 [3].
    """
    pixels = images.to(torch.float32, memory_format=torch.channels_last)
    return torch.addcmul((-mean / std).view(-1, 1, 1), pixels, (1 / (255 * std)).view(-1, 1, 1))
