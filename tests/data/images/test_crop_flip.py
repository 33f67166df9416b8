import torch
import torch.nn.functional as F

from kdbench.core.types import View
from kdbench.data.images.crop_flip import crop_flip, draw_view, normalise, view_count, view_of, zero_pad

PADDING = 4


def noise(rows: int, height: int = 12, width: int = 10) -> torch.Tensor:
    draw = torch.Generator().manual_seed(rows)
    return torch.randint(0, 256, (rows, 3, height, width), dtype=torch.uint8, generator=draw)


def crop_one_by_one(images, index, view, padding):
    rows = []
    for i, dy, dx, flip in zip(index, view.dy, view.dx, view.flip, strict=True):
        crop = F.pad(images[i], [padding] * 4)[:, dy : dy + images.shape[2], dx : dx + images.shape[3]]
        rows.append(crop.flip(2) if flip else crop)
    return torch.stack(rows)


def test_every_view_of_an_image_equals_pad_slice_and_flip():
    images = noise(3)
    view = view_of(torch.arange(view_count(PADDING)), PADDING)
    index = torch.arange(view_count(PADDING)) % 3
    crops = crop_flip(zero_pad(images, PADDING), index, view, (12, 10))
    assert crops.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(crops, crop_one_by_one(images, index, view, PADDING))


def test_memory_layout_of_the_images_does_not_matter():
    padded, index = zero_pad(noise(5), PADDING), torch.tensor([4, 0, 4])
    view = view_of(torch.tensor([0, 57, 161]), PADDING)
    assert torch.equal(
        crop_flip(padded, index, view, (12, 10)), crop_flip(padded.contiguous(), index, view, (12, 10))
    )


def test_without_padding_there_are_two_views():
    assert view_count(0) == 2
    images, index = noise(2), torch.tensor([1, 1])
    crops = crop_flip(zero_pad(images, 0), index, view_of(torch.tensor([0, 1]), 0), (12, 10))
    assert torch.equal(crops, torch.stack([images[1], images[1].flip(2)]))


def numbers(view: View) -> torch.Tensor:
    return (view.dy * (2 * PADDING + 1) + view.dx) * 2 + view.flip


def chi_square(numbers: torch.Tensor) -> float:
    counts = torch.bincount(numbers, minlength=view_count(PADDING)).double()
    expected = len(numbers) / view_count(PADDING)
    return float(((counts - expected) ** 2 / expected).sum())


def test_views_are_uniform_over_images_and_epochs():
    """161 degrees of freedom: below 225 with probability 0.9994."""
    zeros = torch.zeros(20_000, dtype=torch.int64)
    over_images = numbers(draw_view(0, 1, torch.arange(20_000), zeros, PADDING))
    of_one_image = torch.cat(
        [numbers(draw_view(0, e, zeros[:20] + 7, torch.arange(20), PADDING)) for e in range(1000)]
    )
    assert chi_square(over_images) < 225
    assert chi_square(of_one_image) < 225


def test_view_depends_on_image_occurrence_epoch_and_seed_alone():
    index, occurrence = torch.arange(500), torch.arange(500) // 100
    whole = numbers(draw_view(3, 2, index, occurrence, PADDING))
    some = torch.tensor([499, 3, 77])
    assert torch.equal(numbers(draw_view(3, 2, index[some], occurrence[some], PADDING)), whole[some])
    for other in (
        draw_view(4, 2, index, occurrence, PADDING),
        draw_view(3, 3, index, occurrence, PADDING),
        draw_view(3, 2, index, occurrence + 1, PADDING),
    ):
        assert (numbers(other) == whole).float().mean() < 0.1


def test_normalise_equals_values_by_hand():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    result = normalise(images, torch.tensor([0.5, 0.4, 0.2]), torch.tensor([0.25, 0.3, 0.5]))
    torch.testing.assert_close(result[1, :, 2, 3], torch.tensor([-2.0, 2.0, 0.0]))
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
