import torch
from torchvision.transforms.v2 import RandAugment

from kdbench.data.images.randaugment import _operations, cutout, randaugment_cutout
from kdbench.data.sources.synthetic import fake
from kdbench.utils.seeding import derive, draw_integers


def make_data(seed=0):
    data = fake(seed=seed, batch_size=16)
    data.setup("fit")
    return data


def images(rows=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (rows, 3, 32, 32), generator=generator, dtype=torch.uint8)


def positions(rows=8):
    return torch.arange(rows), torch.zeros(rows, dtype=torch.int64)


def test_augmentation_of_a_row_does_not_depend_on_its_batch():
    """It is a function of key, index and occurrence; torch's global generator is not used."""
    before = torch.random.get_rng_state()
    index, occurrence = positions()
    together = randaugment_cutout(images(), 5, index, occurrence)
    alone = randaugment_cutout(images()[3:4], 5, index[3:4], occurrence[3:4])
    assert torch.equal(together[3:4], alone)
    assert torch.equal(torch.random.get_rng_state(), before)


NAMES = [
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
]
PLAIN = ["Identity", "AutoContrast", "Equalize", "Posterize", "Solarize"]


def test_operations_equal_those_of_torchvision():
    """Each at magnitude 10 of 31, with both signs if it is signed."""
    policy, ours = RandAugment(2, 10), _operations(32)
    assert set(NAMES) | set(PLAIN) == set(policy._AUGMENTATION_SPACE)
    signed = [(name, sign) for sign in (1, -1) for name in NAMES]
    for change, (name, sign) in zip(ours, [*signed, *((name, 1) for name in [*PLAIN, *PLAIN])], strict=True):
        magnitudes, _ = policy._AUGMENTATION_SPACE[name]
        values = magnitudes(31, 32, 32)
        magnitude = 0.0 if values is None else sign * float(values[10] if values.ndim else values)
        theirs = policy._apply_image_or_video_transform(
            images(), name, magnitude, interpolation=policy.interpolation, fill=policy._fill
        )
        assert (change(images()).int() - theirs.int()).abs().max() <= 1, (
            name,
            sign,
        )  # 0.3 is a float32 in one of them


def test_operations_are_drawn_uniformly():
    index = torch.arange(28_000)
    drawn = draw_integers(derive(3, "operation", 0), index, 0 * index, below=28)
    assert (drawn.bincount(minlength=28) - 1000).abs().max() < 150


def test_augmentation_depends_on_key_and_occurrence():
    index, occurrence = positions()
    one = randaugment_cutout(images(), 5, index, occurrence)
    for other in (
        randaugment_cutout(images(), 6, index, occurrence),
        randaugment_cutout(images(), 5, index, occurrence + 1),
    ):
        assert not torch.equal(one, other)


def test_cutout_is_black_and_at_most_a_quarter_of_the_image():
    rows = 400
    cut = (cutout(images(1).expand(rows, 3, 32, 32), 1, *positions(rows)) == 0).all(dim=1)
    share = cut.flatten(1).double().mean(dim=1)
    assert share.max() <= 0.25
    assert share.max() > 0.15
    assert (share == 0).any()  # a side of 0 is possible
    assert 0.04 < share.mean() < 0.09  # mean side^2 of 0..16 is 88, minus the part outside


def test_strong_view_is_another_crop_and_is_made_on_request_only():
    data = make_data()
    assert data.train_batch(2, 1).views == {}
    batch = data.train_batch(2, 1, ("strong",))
    assert torch.equal(batch.inputs, data.train_batch(2, 1).inputs)
    strong = batch.views["strong"]
    assert strong.shape == batch.inputs.shape
    assert strong.dtype == torch.float32
    assert not torch.equal(strong, batch.inputs)
    assert torch.equal(strong, make_data().train_batch(2, 1, ("strong",)).views["strong"])
    assert not torch.equal(strong, make_data(seed=1).train_batch(2, 1, ("strong",)).views["strong"])
