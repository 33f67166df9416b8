"""CMKD, and the soft ranks that it shares with R2KD."""

import math

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.functional import divergences
from kdbench.functional.divergences import soft_ranks
from kdbench.objectives.cmkd import CMKD, cmkd_loss
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    assert_shift_invariant,
    normal,
    pairs,
    value_and_gradient,
)


def ranks(row: Tensor, tau: float) -> Tensor:
    return torch.stack([0.5 + sum(torch.sigmoid((a - b) / tau) for b in row) for a in row])


def pearson(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack((a, b)))[0, 1]


def formula(student: Tensor, teacher: Tensor, t: float, tau: float) -> Tensor:
    total = torch.zeros((), dtype=student.dtype)
    for s, z in zip(student, teacher, strict=True):
        p = z.softmax(0)
        w = -(p * p.log()).sum() / math.log(len(p))
        s, z = ((row - row.mean()) / row.std() for row in (s, z))
        easy = 1 - pearson((s / t).softmax(0), (z / t).softmax(0))
        total = total + (1 - w) * easy + w * (1 - pearson(ranks(s, tau), ranks(z, tau)))
    return t**2 * total / len(student)


@pytest.mark.parametrize(("temperature", "tau"), [(4.0, 0.1), (1.0, 1.0)])
def test_value_and_gradient_are_the_formulas(temperature, tau):
    """To the 1e-8 and 1e-7 that keep the denominators from 0."""
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    ours = value_and_gradient(lambda s: cmkd_loss(s, teacher, temperature, tau), student)
    expected = value_and_gradient(lambda s: formula(s, teacher, temperature, tau), student)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert torch.autograd.gradcheck(
        lambda s: cmkd_loss(s, teacher, temperature, tau), student.requires_grad_()
    )


def test_by_hand():
    """The worked inputs, whose second row alone is ranked otherwise (by one swap of three: Spearman 1/2)."""
    hard = cmkd_loss(STUDENT, 1e-3 * TEACHER, tau=1e-3)  # a uniform teacher: ranks alone
    assert hard.item() == pytest.approx(16 * 0.5 / 2, abs=1e-4)
    easy = cmkd_loss(
        STUDENT, 1e3 * TEACHER, temperature=100.0
    )  # a certain one: values alone, linear at high T
    rows = [1 - pearson(s, z) for s, z in zip(STUDENT, TEACHER, strict=True)]
    assert easy.item() / 1e4 == pytest.approx(sum(rows).item() / 2, abs=5e-3)


@given(pairs())
def test_zero_on_any_scale_of_itself_and_nowhere_below(pair):
    student, teacher = pair
    assert cmkd_loss(3 * teacher, teacher).abs() < 1e-4
    assert cmkd_loss(student, teacher) > -1e-6


@given(pairs())
def test_a_constant_added_to_a_row_changes_nothing(pair):
    assert_shift_invariant(cmkd_loss, pair)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_soft_ranks_are_the_formulas(tau):
    logits, weights = normal(0, 5, 7), normal(1, 5, 7)
    mean = torch.full((5, 7), 4.0, dtype=torch.float64)
    torch.testing.assert_close(
        soft_ranks(logits, tau) + mean, torch.stack([ranks(row, tau) for row in logits])
    )
    assert_same(
        lambda z: (weights * soft_ranks(z, tau)).sum(),
        lambda z: (weights * (torch.stack([ranks(row, tau) for row in z]) - mean)).sum(),
        logits,
    )


def test_soft_ranks_are_hard_where_tau_vanishes_and_nothing_where_all_are_equal():
    logits = torch.tensor([[0.3, -2.0, 5.0, 0.1]])
    assert (soft_ranks(logits, 1e-3) + 2.5).tolist() == [[3.0, 1.0, 4.0, 2.0]]
    assert (soft_ranks(torch.full((2, 1000), 1e4 / 3)) == 0).all()


def test_chunks_change_nothing(monkeypatch):
    logits, weights = normal(0, 7, 9), normal(1, 7, 9)
    whole = value_and_gradient(lambda z: (weights * soft_ranks(z)).sum(), logits)
    monkeypatch.setattr(divergences, "PAIRS_AT_ONCE", 2 * 81)
    parts = value_and_gradient(lambda z: (weights * soft_ranks(z)).sum(), logits)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_a_thousand_classes_are_never_held_as_pairs(monkeypatch):
    """What the backward pass keeps of a batch is a hundredth of its pairs of classes."""
    kept = []
    monkeypatch.setattr(divergences, "PAIRS_AT_ONCE", 300**2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        soft_ranks(normal(0, 8, 300).requires_grad_())
    assert sum(kept) < 8 * 300**2 / 100


def test_logits_without_a_gradient_are_ranked_once(monkeypatch):
    """The teacher's chunks have no backward pass to be computed anew in."""
    monkeypatch.setattr(divergences, "PAIRS_AT_ONCE", 2 * 81)
    monkeypatch.delattr(divergences, "checkpoint")
    torch.testing.assert_close(soft_ranks(normal(0, 7, 9)), divergences._soft_ranks(normal(0, 7, 9), 1.0))
    with pytest.raises(NameError):
        soft_ranks(normal(0, 7, 9).requires_grad_())


@pytest.mark.parametrize(("rows", "whole"), [(128, True), (300, False)])
def test_an_accelerator_ranks_a_batch_of_a_thousand_classes_at_once(monkeypatch, rows, whole):
    """Chunks of four rows would be a loop of tiny launches there."""
    sizes = []
    monkeypatch.setattr(divergences, "_soft_ranks", lambda logits, tau: sizes.append(len(logits)) or logits)

    class OnCuda(torch.Tensor):
        is_cuda = True

    soft_ranks(torch.zeros(rows, 1000).as_subclass(OnCuda))
    assert (sizes == [rows]) == whole
    assert min(sizes[:-1], default=rows) > 100


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"tau": math.inf}, {"tau": -1.0}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CMKD(**wrong)
