import math

import pytest
import torch

from kdbench.objectives.cot_infonce import CotInfoNCE, cot_infonce_loss
from tests.objectives.cases import normal


def test_two_samples_by_hand():
    one = torch.eye(2, dtype=torch.float64)
    by_hand = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert cot_infonce_loss(one, 3 * one, temperature=0.5).item() == pytest.approx(by_hand, rel=1e-12)


def test_it_is_the_same_from_both_sides_and_moves_both():
    one, other = normal(0, 4, 3).requires_grad_(), normal(1, 4, 3).requires_grad_()
    value = cot_infonce_loss(one, other)
    torch.testing.assert_close(value, cot_infonce_loss(other, one))
    assert torch.autograd.gradcheck(cot_infonce_loss, (one, other))
    with pytest.raises(ValueError, match="temperature must be positive"):
        CotInfoNCE(0.0)
