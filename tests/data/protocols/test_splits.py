import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.data.protocols.splits import (
    exponential_profile,
    slot_samples,
    split_validation,
    stratified_order,
    symmetric_noise,
)
from kdbench.functional.class_groups import head_medium_tail
from kdbench.utils.seeding import generator


def test_slots_cycle_through_the_subset_and_count_the_rounds():
    index, occurrence = slot_samples(torch.tensor([0, 2, 3, 7]), torch.tensor([5, 9, 11]))
    assert index.tolist() == [5, 11, 5, 9]
    assert occurrence.tolist() == [0, 0, 1, 2]


@given(st.lists(st.integers(2, 30), min_size=2, max_size=6), st.integers(0, 99), st.data())
def test_validation_split_is_stratified_disjoint_and_complete(counts, seed, data):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    size = data.draw(st.integers(len(counts), len(labels) // 2))
    training, validation = split_validation(labels, list(map(str, range(len(counts)))), size, seed)
    assert torch.cat([training, validation]).sort().values.tolist() == list(range(len(labels)))
    share = torch.bincount(labels[validation], minlength=len(counts))
    exact = size * torch.tensor(counts) / len(labels)
    assert len(validation) == size
    assert (share >= 1).all()
    assert ((share - exact).abs() <= len(counts)).all()


def test_equal_classes_contribute_equally():
    labels = torch.arange(600) % 6
    _, validation = split_validation(labels, "abcdef", 60, seed=1)
    assert torch.bincount(labels[validation]).tolist() == [10] * 6


def test_seed_determines_the_validation_images():
    labels = torch.arange(600) % 6
    first, again, other = (split_validation(labels, "abcdef", 60, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_size_0_splits_nothing_off():
    training, validation = split_validation(torch.arange(4), "abcd", 0, seed=0)
    assert training.tolist() == [0, 1, 2, 3]
    assert len(validation) == 0


@pytest.mark.parametrize("size", [1, 5, 60, 61])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"at least 6 .* fewer than the 60 training images, got {size}"):
        split_validation(torch.arange(60) % 6, "abcdef", size, seed=0)


def test_every_class_keeps_a_training_image():
    labels = torch.tensor([0] * 9 + [1])
    with pytest.raises(ValueError, match="validation=2 leaves no training image of rare"):
        split_validation(labels, ("common", "rare"), 2, seed=0)


CIFAR10_LT = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
"""Class sizes at imbalance 100 in the long-tailed literature."""


def test_profile_equals_that_of_the_literature():
    assert exponential_profile(5000, 10, 100) == CIFAR10_LT
    hundred = exponential_profile(500, 100, 100)
    assert hundred[:6] == [500, 477, 455, 434, 415, 396]
    assert hundred[-12:] == [8, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5]
    assert sum(hundred) == 10_847


@given(st.integers(1, 3000), st.integers(1, 60), st.floats(1, 1000))
def test_profile_decreases_and_leaves_no_class_empty(largest, classes, imbalance):
    profile = exponential_profile(largest, classes, imbalance)
    assert profile[0] == largest
    assert profile == sorted(profile, reverse=True)
    assert profile[-1] >= 1
    assert len(profile) == classes


def test_head_medium_and_tail_with_the_usual_thresholds():
    """More than 100 images, 20 to 100, fewer than 20."""
    assert head_medium_tail(torch.tensor([500, 101, 100, 20, 19, 5])).tolist() == [0, 0, 1, 1, 2, 2]
    of_cifar100_lt = head_medium_tail(torch.tensor(exponential_profile(500, 100, 100)))
    assert torch.bincount(of_cifar100_lt).tolist() == [35, 35, 30]


def test_head_medium_and_tail_are_thirds_of_small_data_sets():
    assert head_medium_tail(torch.tensor(CIFAR10_LT)).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert head_medium_tail(torch.tensor([5, 9, 7])).tolist() == [2, 0, 1]


def test_prefixes_of_the_stratified_order_are_stratified():
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 5)
    order = stratified_order(labels, generator(0, "test"))
    assert order.sort().values.tolist() == list(range(65))
    assert set(labels[order[:3]].tolist()) == {0, 1, 2}
    for size in range(3, 65):
        shares = torch.bincount(labels[order[:size]], minlength=3) / torch.tensor([40, 20, 5])
        assert (shares.max() - shares.min()) <= 1 / 5 + 1e-6


def test_noise_depends_on_the_image_alone():
    labels = torch.arange(300) % 3
    whole = symmetric_noise(labels, torch.arange(300), range(3), 0.5, seed=1)
    few = symmetric_noise(labels, torch.arange(0, 300, 7), range(3), 0.5, seed=1)
    assert torch.equal(whole[::7], few[::7])
