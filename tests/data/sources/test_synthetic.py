import pytest
import torch

from kdbench.data.sources.synthetic import fake, load_fake


def test_data_depend_on_the_seed_alone():
    first, again, other = load_fake(seed=0), load_fake(seed=0), load_fake(seed=1)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.train.images, other.train.images)


def test_default_sizes():
    splits = load_fake()
    assert splits.train.images.shape == (64, 3, 32, 32)
    assert splits.test.images.shape == (32, 3, 32, 32)
    assert torch.bincount(splits.train.labels).tolist() == [16] * 4


def test_nearest_class_mean_classifies_the_test_images():
    splits = load_fake(classes=10, train=100, test=50, size=16)
    train, test = splits.train.images.float().flatten(1), splits.test.images.float().flatten(1)
    means = torch.stack([train[splits.train.labels == label].mean(0) for label in range(10)])
    assert (torch.cdist(test, means).argmin(1) == splits.test.labels).all()


def test_empty_splits_are_refused():
    with pytest.raises(ValueError, match="dataset: train must be finite and at least 1, got 0"):
        fake(seed=0, batch_size=1, train=0)
