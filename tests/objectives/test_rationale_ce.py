import pytest
import torch

from kdbench.objectives.rationale_ce import rationale_ce_loss
from tests.objectives.test_cot_mi import EXPLAIN, PREDICT


def test_worked_values_of_the_official_code():
    assert rationale_ce_loss(PREDICT, torch.tensor([[1, 2], [3, -100]])).item() == pytest.approx(
        1.6807304886813756, abs=1e-9
    )
    assert rationale_ce_loss(EXPLAIN, torch.tensor([[0, 1, 2], [2, 3, -100]])).item() == pytest.approx(
        1.0518647770212806, abs=1e-9
    )


def test_a_batch_without_a_token_is_worth_nothing():
    logits = EXPLAIN.clone().requires_grad_()
    value = rationale_ce_loss(logits, torch.full((2, 3), -100))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()
