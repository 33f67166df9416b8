"""Images that stay files: views as torchvision cuts them, the same whoever reads them and whenever."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms.functional import hflip, resized_crop

from kdbench.config.compose import compose_checked
from kdbench.data.images.image_io import DataError
from kdbench.data.images.random_resized_crop import centre_of_file, draw_parts, part_of, view_of_file
from kdbench.data.sources.imagenet import imagenet
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan

SIZES = [(70, 50), (40, 90), (64, 64), (200, 30)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """3 classes, 12 training and 4 test images of each, of several sizes and kinds."""
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


def data(tree, **options):
    made = imagenet(path=str(tree), size=24, shorter=28, batch_size=8, **{"seed": 3, "readers": 2, **options})
    made.setup()
    return made


def encoded(file):
    return str(file), file.read_bytes()


def test_a_part_is_cut_and_scaled_as_torchvision_does(tree):
    for number, file in enumerate(sorted(tree.glob("train/*/*.png"))):
        image = Image.open(file).convert("RGB")
        numbers = draw_parts(0, 1, torch.tensor([number]), torch.tensor([0]))[0].tolist()
        left, top, right, lower = part_of(*image.size, numbers)
        assert 0 <= left < right <= image.width
        assert 0 <= top < lower <= image.height
        expected = resized_crop(
            image, top, left, lower - top, right - left, [24, 24], InterpolationMode.BILINEAR
        )
        expected = hflip(expected) if numbers[-1] < 0.5 else expected
        assert np.array_equal(view_of_file(encoded(file), numbers, 24), np.asarray(expected))


def test_parts_have_the_areas_and_ratios_of_the_literature():
    numbers = draw_parts(0, 1, torch.arange(4000), torch.zeros(4000, dtype=torch.int64))
    assert len(numbers.unique(dim=0)) == 4000
    boxes = torch.tensor([part_of(400, 400, row) for row in numbers.tolist()]).double()
    across, along = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = across * along / 400**2, across / along
    assert 0.079 < area.min() < 0.1
    assert area.max() > 0.95
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    assert abs(ratio.log().mean()) < 0.02
    assert abs((numbers[:, -1] < 0.5).double().mean() - 0.5) < 0.03


def test_an_image_that_nothing_fits_gives_its_centre():
    numbers = [1.0 - 1e-12] * 41
    assert part_of(1000, 10, numbers) == (493, 0, 506, 10)
    assert part_of(10, 1000, numbers) == (0, 493, 10, 506)


def test_the_centre_is_torchvisions(tree):
    usual = Compose([Resize(28), CenterCrop(24)])
    for file in sorted(tree.glob("val/n01/*.png")):
        expected = np.asarray(usual(Image.open(file).convert("RGB")))
        assert np.array_equal(centre_of_file(encoded(file), 24, 28), expected)


def test_batches_are_a_function_of_the_position_alone(tree):
    walked, one_reader = data(tree), data(tree, readers=1)
    batches = {(e, s): walked.train_batch(e, s) for e in (1, 2) for s in range(walked.steps_per_epoch)}
    for epoch, step in [(2, 3), (1, 0), (2, 0)]:
        alone = one_reader.train_batch(epoch, step)
        assert torch.equal(alone.inputs, batches[epoch, step].inputs)
        assert torch.equal(alone.target, batches[epoch, step].target)
    assert sorted(torch.cat([batches[1, s].index for s in range(5)]).tolist()) == list(range(36))
    assert not torch.equal(batches[1, 0].inputs[:4], batches[2, 0].inputs[:4])
    other = data(tree, seed=4).train_batch(1, 0)
    assert not torch.equal(other.inputs, batches[1, 0].inputs)


def test_every_image_is_evaluated_once_and_in_order(tree):
    made = data(tree, validation=3, eval_batch_size=5)
    for split, size in (("test", 12), ("validation", 3), ("train", 33)):
        chunks = [made.eval_batch(c.split, c.start, c.stop) for c in made.eval_chunks(split)]
        assert sum(len(chunk.inputs) for chunk in chunks) == made.eval_size(split) == size
        assert chunks[0].inputs.shape[1:] == (3, 24, 24)
    whole = torch.cat([made.eval_batch("test", start, start + 5).inputs for start in (0, 5, 10)])
    assert torch.equal(whole, data(tree, eval_batch_size=12).eval_batch("test", 0, 12).inputs)


def test_protocols_hold_for_files_too(tree):
    made = data(tree, omit_classes=["n02"])
    assert made.train_size == 24
    assert not (torch.cat([made.train_batch(1, s).target for s in range(made.steps_per_epoch)]) == 1).any()


@pytest.mark.slow
def test_a_run_on_files_and_stored_answers_refused(tree, tmp_path):
    words = [
        sys.executable,
        "-m",
        "kdbench.cli.train",
        "dataset=imagenet",
        f"dataset.path={tree}",
        "dataset.size=24",
    ]
    words += ["dataset.shorter=28", "student=resnet8", "teacher=none", "loss=ce", "schedule=quick"]
    words += [
        "schedule.epochs=1",
        "schedule.batch_size=8",
        "trainer=cpu",
        "progress=false",
        f"output={tmp_path}",
    ]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert "top-1" in ended.stdout
    refused = [*words, "teacher=resnet20", "loss=kd", "teacher.cache=require"]
    ended = subprocess.run(refused, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 2
    assert "cannot be counted" in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    ("root", "words", "said"),
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
def test_what_files_do_not_have_is_refused_before_they_are_looked_for(root, words, said):
    register()
    with pytest.raises(ValueError) as caught:
        make_plan(
            compose_checked(root, ["dataset=imagenet", "dataset.path=nowhere", "trainer=cpu", *words]), {}
        )
    assert said in str(caught.value)


def test_mistakes_are_said(tree, tmp_path):
    with pytest.raises(ValueError, match="no further view"):
        data(tree).train_batch(1, 0, ("strong",))
    with pytest.raises(ValueError, match=r"dataset\.padding"):
        data(tree, padding=4)
    with pytest.raises(DataError, match="there is no such folder"):
        data(tmp_path / "nowhere")
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(DataError, match="no folder val or validation or test"):
        data(tmp_path)
    (tmp_path / "val" / "a").mkdir(parents=True)
    (tmp_path / "val" / "a" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png: not a readable image"):
        data(tmp_path).eval_batch("test", 0, 1)


def test_parquet_files_of_the_hub(big_data):
    made = imagenet(
        path=str(big_data / "imagenette-64"), size=48, shorter=56, seed=0, batch_size=64, readers=2
    )
    made.setup()
    assert (made.num_classes, made.train_size, made.eval_size("test")) == (10, 4000, 1000)
    batch = made.train_batch(1, 0)
    assert batch.inputs.shape == (64, 3, 48, 48)
    assert float(batch.inputs.mean().abs()) < 1
    assert made.eval_batch("test", 0, 3).inputs.shape == (3, 3, 48, 48)
