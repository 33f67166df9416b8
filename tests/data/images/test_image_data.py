import dataclasses

import pytest
import torch
from torch import nn

from kdbench.data.images.image_io import ImageSet, Splits, fingerprint
from kdbench.data.positions import Chunk, EvalChunk
from kdbench.data.sources.synthetic import fake, load_fake

IDENTITY = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def make_data(**changes):
    data = fake(**{"seed": 3, "batch_size": 10, "size": 8, "padding": 2, **IDENTITY, **changes})
    data.setup()
    return data


def as_bytes(inputs):
    return (inputs * 255).round().to(torch.uint8)


def test_attributes_after_setup():
    data = make_data(validation=8)
    assert (data.name, data.label_space, data.num_classes) == ("fake", "fake4", 4)
    assert (data.train_size, data.steps_per_epoch) == (56, 6)
    assert data.eval_splits == ("validation", "test")
    assert (data.eval_size("validation"), data.eval_size("test")) == (8, 32)
    assert data.classes == ("class0", "class1", "class2", "class3")
    assert make_data().eval_splits == ("test",)


def test_dataset_info_covers_every_index_with_a_validation_part():
    data = make_data(validation=8)
    largest = max(int(data.train_batch(1, step).index.max()) for step in range(data.steps_per_epoch))
    dataset_info = data.dataset_info
    assert (dataset_info.train_size, dataset_info.num_classes) == (64, 4)
    assert torch.equal(dataset_info.labels[:8], load_fake().train.labels[:8])
    assert torch.equal(
        torch.cat([dataset_info.trained, data.eval_batch("validation", 0, 8).index]).sort().values,
        torch.arange(64),
    )
    assert largest >= data.train_size


def test_data_are_loaded_once_in_setup():
    data = fake(seed=0, batch_size=4)
    splits, calls = load_fake(), []
    data._load = lambda: calls.append(1) or splits
    assert calls == []
    data.setup("fit")
    data.setup("test")
    assert calls == [1]


def test_epoch_shows_every_training_image_once():
    data = make_data(validation=8)
    batches = [data.train_batch(2, step) for step in range(data.steps_per_epoch)]
    validation = data.eval_batch("validation", 0, 8).index
    assert [len(batch.index) for batch in batches] == [10] * 5 + [6]
    shown = torch.cat([batch.index for batch in batches])
    assert torch.cat([shown, validation]).sort().values.tolist() == list(range(64))


def test_batch_has_the_views_of_its_images():
    data, images = make_data(), load_fake(size=8).train
    batch = data.train_batch(1, 3)
    assert (batch.epoch, batch.step) == (1, 3)
    assert torch.equal(batch.target, images.labels[batch.index])
    padded = nn.functional.pad(images.images, [2] * 4)
    for row, index in enumerate(batch.index):
        dy, dx = int(batch.view.dy[row]), int(batch.view.dx[row])
        crop = padded[index, :, dy : dy + 8, dx : dx + 8]
        expected = crop.flip(2) if batch.view.flip[row] else crop
        assert torch.equal(as_bytes(batch.inputs[row]), expected)


def test_batches_depend_on_seed_epoch_and_step_alone():
    sequential, random_access, other = make_data(), make_data(), make_data(seed=4)
    sequential.train_batch(1, 0)
    one, same = sequential.train_batch(2, 5), random_access.train_batch(2, 5)
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.index, same.index)
    assert not torch.equal(one.index, sequential.train_batch(3, 5).index)
    assert not torch.equal(one.index, other.train_batch(2, 5).index)


def test_views_do_not_depend_on_the_batch_size():
    def views(batch_size):
        data = make_data(batch_size=batch_size)
        batches = [data.train_batch(1, step) for step in range(data.steps_per_epoch)]
        return torch.cat([b.view.dy * 100 + b.view.dx * 10 + b.view.flip for b in batches])

    assert torch.equal(views(7), views(64))


def test_validation_part_does_not_depend_on_the_training_seed():
    parts = [
        make_data(validation=8, **keys).eval_batch("validation", 0, 8).index for keys in ({}, {"seed": 9})
    ]
    assert torch.equal(*parts)
    assert not torch.equal(
        parts[0], make_data(validation=8, validation_seed=1).eval_batch("validation", 0, 8).index
    )


def test_evaluation_batches_are_not_augmented():
    data, splits = make_data(validation=8), load_fake(size=8)
    test = data.eval_batch("test", 30, 40)
    assert test.view is None
    assert torch.equal(as_bytes(test.inputs), splits.test.images[30:])
    assert test.target.tolist() == splits.test.labels[30:].tolist()
    assert test.index.tolist() == [30, 31]
    validation = data.eval_batch("validation", 2, 5)
    assert torch.equal(as_bytes(validation.inputs), splits.train.images[validation.index])
    assert torch.equal(validation.target, splits.train.labels[validation.index])
    assert torch.equal(as_bytes(make_data().probe(3)), splits.train.images[:3])


def test_training_images_can_be_evaluated():
    data, splits = make_data(validation=8), load_fake(size=8)
    assert data.splits == ("validation", "test", "train")
    assert data.eval_size("train") == 56
    train = torch.cat([data.eval_batch("train", start, start + 20).index for start in (0, 20, 40)])
    validation = data.eval_batch("validation", 0, 8).index
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(64))
    some = data.eval_batch("train", 40, 100)
    assert torch.equal(as_bytes(some.inputs), splits.train.images[some.index])
    assert torch.equal(some.target, splits.train.labels[some.index])


def test_unknown_splits_and_steps_are_refused():
    with pytest.raises(ValueError, match="fake has no split 'validation'; possible are test"):
        make_data().eval_size("validation")
    with pytest.raises(ValueError, match="no split 'tset'; possible are validation, test, train"):
        make_data(validation=8).eval_batch("tset", 0, 4)
    for epoch, step in ((1, 7), (1, -1), (0, 0)):
        with pytest.raises(ValueError, match=f"steps from 0 to 6, got {epoch} and {step}"):
            make_data().train_batch(epoch, step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "dataset: batch_size must be finite and at least 1, got 0"),
        ({"eval_batch_size": 0}, "dataset: eval_batch_size must be finite and at least 1, got 0"),
        ({"validation": -1}, "dataset: validation must be finite and not negative, got -1"),
        ({"padding": -1}, "dataset: padding must be finite and not negative, got -1"),
        ({"std": [0.5, 0.5]}, "mean and std must have 3 numbers"),
        ({"std": [0.5, 0.5, 0.0]}, "mean and std must have 3 numbers"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fake(**{"seed": 0, "batch_size": 4, **options})


def test_too_large_validation_part_is_refused():
    with pytest.raises(ValueError, match="got 64"):
        make_data(validation=64)


def test_fingerprint_depends_on_pixels_and_labels_alone():
    splits = load_fake(size=8)
    assert (
        fingerprint(splits) == fingerprint(load_fake(size=8)) == make_data(validation=8, seed=5).fingerprint
    )
    pixels, labels = splits.test.images.clone(), splits.train.labels.clone()
    pixels[3, 1, 2, 2] ^= 1
    labels[0] += 1
    one_pixel = dataclasses.replace(splits, test=dataclasses.replace(splits.test, images=pixels))
    one_label = dataclasses.replace(splits, train=dataclasses.replace(splits.train, labels=labels))
    assert len({fingerprint(part) for part in (splits, one_pixel, one_label)}) == 3


def test_rectangular_images_work():
    part = ImageSet(torch.randint(0, 256, (4, 3, 6, 9)).to(torch.uint8), torch.arange(4) % 2, ("a", "b"))
    data = fake(seed=0, batch_size=4, padding=1)
    data._load = lambda: Splits(part, part)
    data.setup()
    assert data.train_batch(1, 0).inputs.shape == (4, 3, 6, 9)


def test_chunks_cover_the_epoch_from_the_position():
    data = make_data()
    assert list(data.train_chunks((1, 0), 3)) == [Chunk(1, 0, 3), Chunk(1, 3, 6), Chunk(1, 6, 7)]
    assert list(data.train_chunks((4, 5), 3)) == [Chunk(4, 5, 6), Chunk(4, 6, 7)]


def test_evaluation_chunks_cover_each_split():
    data = make_data(validation=8, eval_batch_size=20)
    assert list(data.eval_chunks("validation")) == [EvalChunk("validation", 0, 8)]
    assert list(data.eval_chunks("test")) == [EvalChunk("test", 0, 20), EvalChunk("test", 20, 32)]


def test_moving_to_a_device_keeps_the_batches():
    data = make_data(validation=8)
    before = data.train_batch(1, 2)
    assert data.to("cpu") is data
    assert torch.equal(data.train_batch(1, 2).inputs, before.inputs)
    assert data.to("meta").train_batch(1, 2).inputs.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_batches_equal_cpu_batches():
    data = make_data()
    on_cpu = data.train_batch(1, 2)
    on_gpu = data.to("cuda").train_batch(1, 2)
    assert on_gpu.inputs.device.type == "cuda"
    assert torch.equal(on_gpu.index.cpu(), on_cpu.index)
    torch.testing.assert_close(on_gpu.inputs.cpu(), on_cpu.inputs)
