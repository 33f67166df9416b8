import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbench.objectives.cot_mi import CotMI, cot_mi_loss, pooled_log_probabilities
from tests.objectives.cases import normal

PREDICT = torch.tensor(
    [[[-0.5, 1.25, 0.25, -0.75], [1, 0, -1, 0.75]], [[-0.25, -1.25, 0.5, -0.5], [1.25, 0.25, -0.75, 1]]],
    dtype=torch.float64,
)
EXPLAIN = torch.tensor(
    [
        [[0.25, -0.75, 1, 0], [-1, 0.75, -0.25, -1.25], [0.5, -0.5, 1.25, 0.25]],
        [[-0.75, 1, 0, -1], [0.75, -0.25, -1.25, 0.5], [-0.5, 1.25, 0.25, -0.75]],
    ],
    dtype=torch.float64,
)
MASKS = (torch.tensor([[1, 1], [1, 0]]).bool(), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool())


def test_the_official_value():
    assert cot_mi_loss(PREDICT, EXPLAIN).item() == pytest.approx(2.1368541026124355, abs=1e-9)


@pytest.mark.parametrize(
    ("pool", "form", "expected"),
    [
        ("max", "official", 1.8385618159436112),
        ("mean", "official", 1.4204212592962433),
        ("max", "normalised_ce", 1.5592299894541395),
        ("max", "kl", 0.2916257156162534),
        ("mean", "normalised_ce", 1.5727615586148496),
        ("mean", "kl", 0.30570442321401037),
    ],
)
def test_variants_without_padding(pool, form, expected):
    ours = cot_mi_loss(PREDICT, EXPLAIN, *MASKS, pool=pool, form=form).item()
    assert ours == pytest.approx(expected, abs=1e-9)


def plain(logits, mask, pool):
    """The same with a full softmax, as the official code has it."""
    probability = logits.softmax(dim=-1) * mask[..., None]
    if pool == "max":
        return probability.max(dim=1).values
    return probability.sum(dim=1) / mask.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("pool", ["max", "mean"])
@given(seed=st.integers(0, 2**31), size=st.integers(1, 9))
def test_slices_of_the_vocabulary_change_nothing(pool, seed, size):
    logits = normal(seed, 2 * 5, 7).reshape(2, 5, 7).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    weights = normal(seed + 1, 2, 7)
    ours = pooled_log_probabilities(logits, mask, pool, size).exp()
    formula = plain(logits, mask, pool)
    torch.testing.assert_close(ours, formula, rtol=1e-12, atol=1e-14)
    gradients = [torch.autograd.grad((weights * value).sum(), logits)[0] for value in (ours, formula)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("form", ["official", "normalised_ce", "kl"])
def test_gradients_are_those_of_finite_differences(pool, form):
    predict, explain = normal(1, 6, 5).reshape(2, 3, 5), normal(2, 8, 5).reshape(2, 4, 5)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()

    def loss(p, e):
        return cot_mi_loss(p, e, None, mask, pool=pool, form=form, detach="none")

    assert torch.autograd.gradcheck(loss, (predict.requires_grad_(), explain.requires_grad_()))


def test_the_label_pulls_and_is_not_pulled():
    predict, explain = PREDICT.clone().requires_grad_(), EXPLAIN.clone().requires_grad_()
    cot_mi_loss(predict, explain).backward()
    assert predict.grad is None
    found = explain.grad[0, 0]
    first = torch.tensor([-0.021376463, -0.003648549, 0.034392495, -0.009367483], dtype=torch.float64)
    tied = found + explain.grad[0, 2]  # two positions have the same softmax; rounding decides between them
    torch.testing.assert_close(tied, first, rtol=0, atol=1e-9)
    cot_mi_loss(predict, explain, detach="none").backward()
    assert predict.grad.abs().sum() > 0


@pytest.mark.parametrize("form", ["official", "normalised_ce", "kl"])
def test_finite_at_extreme_logits(form):
    predict, explain = (1e4 * normal(seed, 6, 5).sign().reshape(2, 3, 5).float() for seed in (0, 1))
    explain.requires_grad_()
    value = cot_mi_loss(predict, explain, form=form)
    value.backward()
    assert value.isfinite()
    assert explain.grad.isfinite().all()


def test_options_are_checked():
    with pytest.raises(ValueError, match="form must be official, normalised_ce or kl, got 'ce'"):
        CotMI(form="ce")
