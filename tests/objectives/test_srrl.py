import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.objectives.srrl import SRRL, srrl_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

BATCH = Batch(torch.zeros(4), torch.arange(4), torch.arange(4))
WEIGHT, BIAS = normal(5, 3, 7), normal(6, 1, 3)[0]
FEATURES = normal(1, 4, 7)
TEACHER = Outputs(FEATURES @ WEIGHT.T + BIAS, {"pooled": FEATURES}, (WEIGHT, BIAS))


def answer(maps: Tensor) -> Outputs:
    return Outputs(torch.zeros(len(maps), 3), {"unpooled": maps, "pooled": maps.mean((2, 3))})


MAPS = normal(0, 4, 5 * 6).view(4, 5, 2, 3)


def bound(teacher: Outputs = TEACHER, **parameters) -> SRRL:
    objective, none = SRRL(**parameters), torch.zeros(0, dtype=torch.int64)
    objective.student_features = tuple(name.replace("-1", "3") for name in objective.student_features)
    objective.setup(nn.Identity(), nn.Identity(), Probes(answer(MAPS), teacher), DatasetInfo(3, none, none))
    return objective.double()


def formula(objective: SRRL, maps: Tensor, weight: float, pooled_first: bool) -> Tensor:
    """Position by position; BatchNorm as it starts, with the batch's own statistics."""
    if pooled_first:
        maps = maps.mean((2, 3), keepdim=True)
    kernel = objective.connector[0].weight[:, :, 0, 0]
    raw = torch.einsum("oc,nchw->nohw", kernel, maps)
    centred = raw - raw.mean((0, 2, 3), keepdim=True)
    normed = centred / (raw.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    features = normed.relu().mean((2, 3))
    logits = features @ WEIGHT.T + BIAS
    return ((features - FEATURES) ** 2).mean() + weight * ((logits - TEACHER.logits) ** 2).mean()


def test_by_hand():
    ours, theirs = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert srrl_loss(ours, theirs, torch.tensor([[3.0]]), torch.tensor([[1.0]]), logit_weight=0.5) == 2.5 + 2


@pytest.mark.parametrize("pooled_first", [False, True])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_value_and_gradient_are_the_formulas(weight, pooled_first):
    objective = bound(logit_weight=weight, pooled_first=pooled_first)
    assert_same(
        lambda maps: objective(answer(maps), TEACHER, BATCH),
        lambda maps: formula(objective, maps, weight, pooled_first),
        MAPS,
    )


@pytest.mark.parametrize("pooled_first", [False, True])
def test_a_last_batch_of_one_row_trains(pooled_first):
    objective, one = bound(pooled_first=pooled_first).train(), MAPS[:1]
    teacher = Outputs(TEACHER.logits[:1], {"pooled": FEATURES[:1]}, (WEIGHT, BIAS))
    value, gradient = value_and_gradient(lambda maps: objective(answer(maps), teacher, BATCH), one)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_the_connector_starts_he_normal_by_its_fan_out():
    maps, features = torch.zeros(4, 5, 2, 3), torch.zeros(4, 4000)
    teacher = Outputs(torch.zeros(4, 3), {"pooled": features}, (torch.zeros(3, 4000), None))
    none = torch.zeros(0, dtype=torch.int64)
    objective = SRRL()
    objective.setup(nn.Identity(), nn.Identity(), Probes(answer(maps), teacher), DatasetInfo(3, none, none))
    assert objective.connector[0].weight.std().item() == pytest.approx((2 / 4000) ** 0.5, rel=0.03)


def test_pooling_first_asks_for_no_map():
    assert SRRL().student_features == ("unpooled",)
    assert SRRL(pooled_first=True).student_features == ("pooled",)
    assert "features" not in SRRL(pooled_first=True).needs


def test_a_student_that_is_the_teacher_is_at_zero():
    """An identity for a connector, in eval mode."""
    objective = bound().eval()
    objective.connector = nn.Sequential(nn.Identity())
    features = normal(3, 4, 7)[:, :, None, None].abs()
    teacher = Outputs(
        F.linear(features[:, :, 0, 0], WEIGHT), {"pooled": features[:, :, 0, 0]}, (WEIGHT, None)
    )
    student = Outputs(TEACHER.logits, {"unpooled": features})
    assert objective(student, teacher, BATCH) == 0


def test_refuses_a_teacher_without_a_linear_layer_and_a_student_without_maps():
    with pytest.raises(ValueError, match="one linear layer"):
        bound(Outputs(TEACHER.logits, TEACHER.features))
    objective, none = SRRL(), torch.zeros(0, dtype=torch.int64)
    objective.student_features = ("pooled",)
    with pytest.raises(ValueError, match=r"map .* \[4, 5\]"):
        objective.setup(
            nn.Identity(), nn.Identity(), Probes(answer(MAPS), TEACHER), DatasetInfo(3, none, none)
        )


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_refuses_a_weight(value):
    with pytest.raises(ValueError, match=f"SRRL: logit_weight .*{value}"):
        SRRL(logit_weight=value)
