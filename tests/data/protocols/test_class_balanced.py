import pytest
import torch
from scipy.stats import chisquare

from kdbench.data.protocols.class_balanced import ClassBalanced
from kdbench.data.sources.synthetic import fake


@pytest.fixture(scope="module")
def data():
    data = fake(seed=3, batch_size=10, size=8, padding=2, validation=8)
    data.setup()
    return data


def test_every_class_has_equally_many_training_images(data):
    batch = ClassBalanced(data).batch(5, seed=0, epoch=1, step=2)
    assert torch.bincount(batch.target).tolist() == [5] * 4
    assert torch.equal(data.dataset_info.labels[batch.index], batch.target)
    assert set(batch.index.tolist()) <= set(data.dataset_info.trained.tolist())
    assert torch.equal(batch.inputs, data.train_inputs(batch.index, batch.view))


def test_batch_depends_on_seed_epoch_and_step_alone(data):
    first, again = (ClassBalanced(data).batch(5, seed=0, epoch=1, step=2) for _ in range(2))
    others = [ClassBalanced(data).batch(5, *position) for position in ((1, 1, 2), (0, 2, 2), (0, 1, 3))]
    assert torch.equal(first.inputs, again.inputs)
    assert not any(torch.equal(first.inputs, other.inputs) for other in others)


def test_repeated_images_get_different_views(data):
    batch = ClassBalanced(data).batch(200, seed=0, epoch=1, step=0)
    image = batch.index == batch.index[0]
    views = {
        tuple(view)
        for view in torch.stack([batch.view.dy, batch.view.dx, batch.view.flip], 1)[image].tolist()
    }
    assert image.sum() > 5
    assert len(views) > 3


def test_images_of_a_class_are_drawn_uniformly(data):
    index = torch.cat([ClassBalanced(data).batch(100, 0, 1, step).index for step in range(30)])
    for label in range(4):
        images = data.dataset_info.trained[data.dataset_info.labels[data.dataset_info.trained] == label]
        counts = torch.stack([(index == image).sum() for image in images])
        assert counts.sum() == 3000
        assert chisquare(counts.numpy()).pvalue > 1e-4


def test_classes_without_images_are_skipped(data):
    class WithoutClass1:
        padding, device, train_inputs = data.padding, data.device, data.train_inputs
        dataset_info = type(data.dataset_info)(
            4,
            data.dataset_info.labels,
            data.dataset_info.trained[data.dataset_info.labels[data.dataset_info.trained] != 1],
        )

    batch = ClassBalanced(WithoutClass1).batch(3, 0, 1, 0)
    assert batch.target.tolist() == [0] * 3 + [2] * 3 + [3] * 3
