import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.objectives.vid import VID, vid_loss
from tests.objectives.cases import assert_same, normal

FACTS = DatasetInfo(2, torch.zeros(4, dtype=torch.int64), torch.arange(4))
BATCH = Batch(inputs=torch.zeros(4, 3), target=torch.zeros(4, dtype=torch.int64), index=torch.arange(4))
SHAPES = {
    "stage1": ((3, 4, 4), (5, 4, 4)),
    "stage2": ((4, 4, 4), (2, 2, 2)),
    "stage3": ((6, 2, 2), (7, 4, 4)),
}


def maps(seed: int, *shape: int) -> Tensor:
    return normal(seed, shape[0], shape[1] * shape[2] * shape[3]).view(shape)


def formula(predicted: Tensor, teacher: Tensor, variance: Tensor) -> Tensor:
    """The density's own, less its constant."""
    density = Normal(predicted, variance[None, :, None, None].sqrt().expand_as(predicted))
    return (-density.log_prob(teacher) - 0.5 * math.log(2 * math.pi)).mean()


def sides() -> tuple[Outputs, Outputs]:
    ours = {record: maps(i, 4, *shapes[0]).float() for i, (record, shapes) in enumerate(SHAPES.items())}
    theirs = {record: maps(i + 9, 4, *shapes[1]).float() for i, (record, shapes) in enumerate(SHAPES.items())}
    return Outputs(torch.zeros(4, 2), ours), Outputs(torch.zeros(4, 2), theirs)


def bound(**parameters: float) -> VID:
    objective = VID(**parameters)
    objective.student_features = objective.teacher_features = tuple(SHAPES)
    objective.setup(nn.Identity(), nn.Identity(), Probes(*sides()), FACTS)
    return objective


def test_one_element_by_hand():
    value = vid_loss([torch.full((1, 1, 1, 1), 3.0)], [torch.ones(1, 1, 1, 1)], [torch.tensor([2.0])])
    assert value.item() == pytest.approx(0.5 * (4 / 2 + math.log(2)), rel=1e-6)


def test_value_and_gradient_are_the_formulas():
    """By the means, and by the variances; two stages."""
    student, teacher = maps(0, 2, 3, 2, 2), maps(1, 2, 3, 2, 2)
    v, w = torch.tensor([0.3, 5.0, 1.2]).double(), torch.tensor([2.0, 0.7]).double()
    pair = [teacher, teacher[:, :2] + 1]
    assert_same(
        lambda s: vid_loss([s, s[:, :2]], pair, [v, w]),
        lambda s: formula(s, pair[0], v) + formula(s[:, :2], pair[1], w),
        student,
    )
    assert_same(lambda v: vid_loss([student], [teacher], [v]), lambda v: formula(student, teacher, v), v)


@given(st.integers(0, 2**31), st.floats(0.2, 5.0))
def test_the_best_variance_is_the_mean_squared_error(seed, factor):
    student, teacher = maps(seed, 2, 3, 2, 2), maps(seed + 1, 2, 3, 2, 2)
    best = (student - teacher).square().mean(dim=(0, 2, 3))
    lowest = vid_loss([student], [teacher], [best])
    torch.testing.assert_close(lowest, 0.5 * (1 + best.log()).mean())
    assert vid_loss([student], [teacher], [factor * best]) >= lowest


def test_serves_other_channels_and_sizes():
    """The larger map is averaged first, whichever side's it is."""
    student, teacher = sides()
    objective = bound()
    value = objective(student, teacher, BATCH)
    expected = torch.zeros(())
    for record, regressor in zip(SHAPES, objective.regressors, strict=True):
        ours, theirs = student.features[record], teacher.features[record]
        if record == "stage2":
            ours = F.avg_pool2d(ours, 2)
        if record == "stage3":
            theirs = F.avg_pool2d(theirs, 2)
        expected = expected + formula(regressor(ours), theirs, torch.full((theirs.shape[1],), 5.0))
    torch.testing.assert_close(value, expected)
    value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in objective.parameters())


def test_a_regressor_is_three_convolutions_without_bias():
    convolutions = [m for m in bound().regressors[0] if isinstance(m, nn.Conv2d)]
    assert [tuple(m.weight.shape) for m in convolutions] == [(5, 3, 1, 1), (5, 5, 1, 1), (5, 5, 1, 1)]
    assert all(m.bias is None for m in convolutions)


@pytest.mark.parametrize("variance", [1e-3, 5.0, 1e3])
def test_variances_start_where_they_are_told(variance):
    for rho in bound(initial_variance=variance).rho:
        torch.testing.assert_close(F.softplus(rho) + 1e-5, torch.full_like(rho, variance))


def test_the_published_switch_keeps_the_variances():
    learned, fixed = bound(), bound(fixed_variance=True)
    assert all(rho.requires_grad for rho in learned.rho)
    assert not any(rho.requires_grad for rho in fixed.rho)
    assert fixed.state_dict().keys() == learned.state_dict().keys()


@pytest.mark.parametrize("variance", [0.0, 1e-5, math.nan, math.inf])
def test_refuses_a_variance(variance):
    with pytest.raises(ValueError, match="VID: initial_variance"):
        VID(variance)


def test_refuses_unequal_numbers_of_stages():
    with pytest.raises(ValueError, match="zip"):
        vid_loss([torch.zeros(1, 1, 1, 1)], [], [torch.ones(1)])
