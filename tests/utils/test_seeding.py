import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from kdbench.utils.seeding import derive, draw_integers, generator, seed_generators, seed_scope


def test_derived_seeds_never_change():
    """A changed derivation would silently change every run of every user."""
    assert derive(0, "order", 1) == 8024286156118006313
    assert len({derive(s, p, e) for s in range(20) for p in ("order", "init") for e in range(20)}) == 800


@given(st.integers(0, 2**62), st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_a_draw_depends_on_its_own_coordinates_alone(key, indices):
    together = draw_integers(key, torch.tensor(indices), torch.tensor(3), below=9)
    alone = [int(draw_integers(key, torch.tensor(i), torch.tensor(3), below=9)) for i in indices]
    assert together.tolist() == alone


@pytest.mark.parametrize("below", [2, 9, 162])
def test_draws_are_uniform(below):
    draws = draw_integers(derive(1, "view"), torch.arange(100_000), below=below)
    assert chisquare(torch.bincount(draws, minlength=below).numpy()).pvalue > 1e-4


def test_neighbouring_coordinates_are_uncorrelated():
    draws = draw_integers(5, torch.arange(50_000), below=1000).double()
    correlation = torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1]
    assert abs(correlation) < 0.02


def test_seed_scope_restores_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seed_scope(0, "init"):
        first = torch.rand(4)
    assert torch.equal(torch.rand(2), expected)
    with seed_scope(0, "init"):
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(torch.rand(4, generator=generator(0, "init")), first)


def test_seed_generators_equals_torch_manual_seed():
    seed = derive(3, "step", 1, 2)
    torch.manual_seed(seed)
    expected = torch.nn.functional.dropout(torch.ones(64)), torch.randperm(16)
    torch.rand(5)
    seed_generators(seed, torch.device("cpu"))
    actual = torch.nn.functional.dropout(torch.ones(64)), torch.randperm(16)
    assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))
