import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.data.split import slot_samples, validation_cut


def test_slots_go_round_the_subset_and_count_the_rounds():
    index, occurrence = slot_samples(torch.tensor([0, 2, 3, 7]), torch.tensor([5, 9, 11]))
    assert index.tolist() == [5, 11, 5, 9]
    assert occurrence.tolist() == [0, 0, 1, 2]


@given(st.lists(st.integers(2, 30), min_size=2, max_size=6), st.integers(0, 99), st.data())
def test_the_cut_is_stratified_disjoint_and_complete(counts, seed, data):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    size = data.draw(st.integers(len(counts), len(labels) // 2))
    kept, held_out = validation_cut(labels, list(map(str, range(len(counts)))), size, seed)
    assert torch.cat([kept, held_out]).sort().values.tolist() == list(range(len(labels)))
    share = torch.bincount(labels[held_out], minlength=len(counts))
    exact = size * torch.tensor(counts) / len(labels)
    assert len(held_out) == size
    assert (share >= 1).all()
    assert ((share - exact).abs() <= len(counts)).all()


def test_equal_classes_give_equal_parts():
    labels = torch.arange(600) % 6
    _, held_out = validation_cut(labels, "abcdef", 60, seed=1)
    assert torch.bincount(labels[held_out]).tolist() == [10] * 6


def test_the_seed_chooses_the_images():
    labels = torch.arange(600) % 6
    first, again, other = (validation_cut(labels, "abcdef", 60, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_zero_holds_nothing_out():
    kept, held_out = validation_cut(torch.arange(4), "abcd", 0, seed=0)
    assert kept.tolist() == [0, 1, 2, 3]
    assert len(held_out) == 0


@pytest.mark.parametrize("size", [1, 5, 60, 61])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"at least 6 .* fewer than the 60 training images, got {size}"):
        validation_cut(torch.arange(60) % 6, "abcdef", size, seed=0)


def test_a_class_may_not_vanish_from_training():
    labels = torch.tensor([0] * 9 + [1])
    with pytest.raises(ValueError, match="validation=2 leaves no training image of rare"):
        validation_cut(labels, ("common", "rare"), 2, seed=0)
