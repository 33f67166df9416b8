import io

import pytest
import torch
from PIL import Image

from kdbench.data.images import image_io
from kdbench.data.images.image_io import DataError, ImageSet, available_bytes, check_memory, check_set, decode


def encode(image: torch.Tensor, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, kind)
    return buffer.getvalue()


def noise(rows: int, height: int = 8, width: int = 8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, 3, height, width), dtype=torch.uint8, generator=draw)


def fetcher(files: list[bytes]):
    return lambda rows: [(f"file {row}", files[row]) for row in range(rows.start, rows.stop)]


@pytest.mark.parametrize("resize", [False, True])
def test_images_of_the_right_size_are_unchanged_and_in_order(resize):
    pixels = noise(200)
    decoded = decode(fetcher([encode(image) for image in pixels]), 200, 8, resize=resize)
    assert torch.equal(decoded, pixels)


def test_resizing_keeps_the_centre_square():
    wide = torch.zeros(3, 8, 16, dtype=torch.uint8)
    wide[:, :, 4:12] = 200
    assert decode(fetcher([encode(wide)]), 1, 8, resize=True).unique().tolist() == [200]
    assert decode(fetcher([encode(wide)]), 1, 4, resize=True).shape == (1, 3, 4, 4)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_colour_modes_are_converted_to_rgb(mode):
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, "PNG")
    assert decode(fetcher([buffer.getvalue()]), 1, 8, resize=True).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize(
    "damage", [lambda file: b"", lambda file: b"no image", lambda file: file[: len(file) // 2]]
)
def test_message_names_the_damaged_file(resize, damage):
    files = [encode(image) for image in noise(70)]
    files[66] = damage(files[66])
    with pytest.raises(DataError, match=r"^file 66: not a readable image"):
        decode(fetcher(files), 70, 8, resize=resize)


def test_wrong_size_is_refused_without_resize():
    with pytest.raises(DataError, match=r"^file 0: expected an image of 9x9 pixels, got 8x8"):
        decode(fetcher([encode(noise(1)[0])]), 1, 9, resize=False)


def check(images=None, labels=None, rows=None):
    images = noise(4) if images is None else images
    labels = torch.tensor([0, 1, 0, 1]) if labels is None else labels
    return check_set(ImageSet(images, labels, ("cat", "dog")), "here", rows)


def test_consistent_set_passes():
    assert len(check(rows=4)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": noise(4).float()}, "expected images uint8"),
        (
            {"images": noise(4)[:, :1]},
            r"expected images uint8 \[N, 3, H, W\], got torch.uint8 \[4, 1, 8, 8\]",
        ),
        ({"images": noise(3)}, "3 images but 4 labels"),
        ({"rows": 5}, "expected 5 rows, found 4"),
        ({"images": noise(4)[:0], "labels": torch.arange(0)}, "expected at least 1 rows, found 0"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, r"labels must be in 0..1, found 0..2"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, r"labels must be in 0..1, found -1..1"),
    ],
)
def test_inconsistent_set_is_refused(changes, message):
    with pytest.raises(DataError, match=f"^here: {message}"):
        check(**changes)


def test_data_larger_than_memory_are_refused_with_their_size():
    check_memory(1000, 100, available=60_000_000)
    with pytest.raises(DataError, match=r"1000 images of 224x224 need 0.3 GB .* 0.1 GB are available"):
        check_memory(1000, 224, available=100_000_000)


def test_available_memory_is_the_smallest_limit(monkeypatch):
    assert available_bytes() > 10**6
    monkeypatch.setattr(image_io, "_memory_limits", lambda: iter([7, 5, 9]))
    assert available_bytes() == 5


def test_size_0_is_refused():
    with pytest.raises(ValueError, match="size must be finite and at least 1, got 0"):
        check_memory(10, 0)
