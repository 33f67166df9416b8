"""Streamed images: views equal torchvision's and do not depend on the reader threads or the order of reading."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import hflip, resized_crop

from kdbench.data.images.image_io import DataError
from kdbench.data.images.random_resized_crop import centre_view, crop_box, draw_crops, random_view
from kdbench.data.sources.imagenet import imagenet
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from tests.helpers.composition import compose_checked

SIZES = [(70, 50), (40, 90), (64, 64), (200, 30)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder with 3 classes of 12 training and 4 test images of several sizes and modes."""
    root, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, each in (("train", 12), ("val", 4)):
        for name in ("n01", "n02", "n03"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                width, height = SIZES[number % len(SIZES)]
                pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert("L" if number == 5 else "RGB")
                image.save(folder / f"{number:02}.png")
    return root


def make_data(tree, **options):
    data = imagenet(path=str(tree), size=24, shorter=28, batch_size=8, **{"seed": 3, "readers": 2, **options})
    data.setup()
    return data


def encode(file):
    return str(file), file.read_bytes()


def test_random_view_equals_torchvision(tree):
    for number, file in enumerate(sorted(tree.glob("train/*/*.png"))):
        image = Image.open(file).convert("RGB")
        numbers = draw_crops(0, 1, torch.tensor([number]), torch.tensor([0]))[0].tolist()
        left, top, right, lower = crop_box(*image.size, numbers)
        assert 0 <= left < right <= image.width
        assert 0 <= top < lower <= image.height
        expected = resized_crop(
            image, top, left, lower - top, right - left, [24, 24], InterpolationMode.BILINEAR
        )
        expected = hflip(expected) if numbers[-1] < 0.5 else expected
        assert np.array_equal(random_view(encode(file), numbers, 24), np.asarray(expected))


def test_crops_have_the_published_areas_and_ratios():
    numbers = draw_crops(0, 1, torch.arange(4000), torch.zeros(4000, dtype=torch.int64))
    assert len(numbers.unique(dim=0)) == 4000
    boxes = torch.tensor([crop_box(400, 400, row) for row in numbers.tolist()]).double()
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = widths * heights / 400**2, widths / heights
    assert 0.079 < area.min() < 0.1
    assert area.max() > 0.95
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert abs(ratio.log().mean()) < 0.02
    assert abs((numbers[:, -1] < 0.5).double().mean() - 0.5) < 0.03


def test_extreme_image_yields_its_centre():
    numbers = [1.0 - 1e-12] * 41
    assert crop_box(1000, 10, numbers) == (493, 0, 506, 10)
    assert crop_box(10, 1000, numbers) == (0, 493, 10, 506)


def test_centre_view_equals_torchvision(tree):
    transform = Compose([Resize(28), CenterCrop(24)])
    for file in sorted(tree.glob("val/n01/*.png")):
        expected = np.asarray(transform(Image.open(file).convert("RGB")))
        assert np.array_equal(centre_view(encode(file), 24, 28), expected)


def test_batches_depend_on_the_position_alone(tree):
    walked, one_reader = make_data(tree), make_data(tree, readers=1)
    batches = {(e, s): walked.train_batch(e, s) for e in (1, 2) for s in range(walked.steps_per_epoch)}
    for epoch, step in [(2, 3), (1, 0), (2, 0)]:
        alone = one_reader.train_batch(epoch, step)
        assert torch.equal(alone.inputs, batches[epoch, step].inputs)
        assert torch.equal(alone.target, batches[epoch, step].target)
    assert sorted(torch.cat([batches[1, s].index for s in range(5)]).tolist()) == list(range(36))
    assert not torch.equal(batches[1, 0].inputs[:4], batches[2, 0].inputs[:4])
    other = make_data(tree, seed=4).train_batch(1, 0)
    assert not torch.equal(other.inputs, batches[1, 0].inputs)


def test_evaluation_covers_every_image_once_in_order(tree):
    data = make_data(tree, validation=3, eval_batch_size=5)
    for split, size in (("test", 12), ("validation", 3), ("train", 33)):
        chunks = [data.eval_batch(c.split, c.start, c.stop) for c in data.eval_chunks(split)]
        assert sum(len(chunk.inputs) for chunk in chunks) == data.eval_size(split) == size
        assert chunks[0].inputs.shape[1:] == (3, 24, 24)
    whole = torch.cat([data.eval_batch("test", start, start + 5).inputs for start in (0, 5, 10)])
    assert torch.equal(whole, make_data(tree, eval_batch_size=12).eval_batch("test", 0, 12).inputs)


def test_protocols_apply_to_files(tree):
    data = make_data(tree, omit_classes=["n02"])
    assert data.train_size == 24
    assert not (torch.cat([data.train_batch(1, s).target for s in range(data.steps_per_epoch)]) == 1).any()


@pytest.mark.slow
def test_run_on_files_succeeds_and_refuses_stored_answers(tree, tmp_path):
    command = [
        sys.executable,
        "-m",
        "kdbench.cli.train",
        "dataset=imagenet",
        f"dataset.path={tree}",
        "dataset.size=24",
    ]
    command += ["dataset.shorter=28", "student=resnet8", "teacher=none", "loss=ce", "schedule=quick"]
    command += [
        "schedule.epochs=1",
        "schedule.batch_size=8",
        "trainer=cpu",
        "progress=false",
        f"output={tmp_path}",
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    assert "top-1" in process.stdout
    refused = [*command, "teacher=resnet20", "loss=kd", "teacher.cache=require"]
    process = subprocess.run(refused, capture_output=True, text=True, timeout=200)
    assert process.returncode == 2
    assert "cannot be counted" in process.stderr + process.stdout


@pytest.mark.parametrize(
    ("root", "overrides", "message"),
    [
        (
            "train",
            ["teacher=resnet20", "student=resnet8", "loss=mlkd"],
            "mlkd looks at a further view (strong)",
        ),
        (
            "train_teacher",
            ["teacher=resnet8", "teacher_loss=mcmi", "teacher_loss.objectives.mcmi.mode=ema"],
            "mcmi looks at images drawn by class",
        ),
    ],
)
def test_unsupported_objectives_are_refused_before_loading(root, overrides, message):
    register()
    with pytest.raises(ValueError) as caught:
        make_plan(
            compose_checked(root, ["dataset=imagenet", "dataset.path=nowhere", "trainer=cpu", *overrides]), {}
        )
    assert message in str(caught.value)


def test_invalid_options_and_files_are_refused(tree, tmp_path):
    with pytest.raises(ValueError, match="have no view strong"):
        make_data(tree).train_batch(1, 0, ("strong",))
    with pytest.raises(ValueError, match=r"dataset\.padding"):
        make_data(tree, padding=4)
    with pytest.raises(DataError, match="no such folder"):
        make_data(tmp_path / "nowhere")
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(DataError, match="no folder val or validation or test"):
        make_data(tmp_path)
    (tmp_path / "val" / "a").mkdir(parents=True)
    (tmp_path / "val" / "a" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png: not a readable image"):
        make_data(tmp_path).eval_batch("test", 0, 1)


def test_parquet_files_in_the_layout_of_the_hub(big_data):
    data = imagenet(
        path=str(big_data / "imagenette-64"), size=48, shorter=56, seed=0, batch_size=64, readers=2
    )
    data.setup()
    assert (data.num_classes, data.train_size, data.eval_size("test")) == (10, 4000, 1000)
    batch = data.train_batch(1, 0)
    assert batch.inputs.shape == (64, 3, 48, 48)
    assert float(batch.inputs.mean().abs()) < 1
    assert data.eval_batch("test", 0, 3).inputs.shape == (3, 3, 48, 48)
