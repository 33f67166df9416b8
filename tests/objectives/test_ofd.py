import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdbench.models.registry import create_model
from kdbench.objectives.ofd import OFD, margins_of, ofd_loss
from tests.objectives.cases import assert_same, bound, normal, sides

S = torch.arange(1, 97, dtype=torch.float64).sin().view(2, 3, 4, 4)
T = 2 * torch.arange(96, dtype=torch.float64).cos().view(2, 3, 4, 4)
MARGINS = torch.tensor([-0.5, -0.3, -0.8], dtype=torch.float64)


def formula(student: list[Tensor], teacher: list[Tensor], margins: list[Tensor]) -> Tensor:
    """Channel by channel, with the mask of the authors."""
    total = torch.zeros((), dtype=student[0].dtype)
    for depth, (s, t, margin) in enumerate(zip(student, teacher, margins, strict=True)):
        for channel, m in enumerate(margin.tolist()):
            x, target = s[:, channel], t[:, channel].clamp(min=m)
            counted = ((x > target) | (target > 0)).double()
            stage = ((x - target) ** 2 * counted).sum() / len(s) / 1000
            total = total + stage / 2 ** (len(student) - 1 - depth)
    return total


def split(maps: Tensor) -> list[Tensor]:
    """Maps of two sizes out of rows of 60 numbers."""
    return [maps[:, :48].view(-1, 3, 4, 4), maps[:, 48:].view(-1, 3, 2, 2)]


def norm(weight: float, bias: float) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(1).double()
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def test_worked_value():
    """X56, which is without the factor of 1/1000."""
    assert 1000 * ofd_loss([S], [T], [MARGINS]).item() == pytest.approx(22.716416841743, abs=1e-9)


def test_value_and_gradient_are_the_formulas():
    teacher, margins = split(normal(1, 3, 60)), [MARGINS, 2 * MARGINS]
    student = normal(0, 3, 60)
    assert_same(
        lambda s: ofd_loss(split(s), teacher, margins), lambda s: formula(split(s), teacher, margins), student
    )


def test_a_stage_weighs_half_as_much_as_the_next():
    torch.testing.assert_close(
        ofd_loss([S] * 3, [T] * 3, [MARGINS] * 3), 1.75 * ofd_loss([S], [T], [MARGINS])
    )


@given(st.integers(0, 1000))
def test_costs_nothing_at_the_target_and_below_one_that_is_not_positive(seed):
    teacher = normal(seed, 2, 27).view(2, 3, 3, 3)
    target = teacher.maximum(MARGINS[:, None, None])
    below = torch.where(target > 0, target, target - normal(seed + 1, 2, 27).view(2, 3, 3, 3).abs())
    assert ofd_loss([target], [teacher], [MARGINS]) == 0
    assert ofd_loss([below], [teacher], [MARGINS]) == 0
    assert ofd_loss([below + 0.1], [teacher], [MARGINS]) > 0


@given(st.floats(0.1, 3.0), st.floats(-3.0, 2.9))
def test_a_margin_is_the_mean_of_what_the_relu_removes(weight, ratio):
    """The integral, on a grid; the sign of the weight does not matter."""
    bias = ratio * weight
    x = torch.linspace(bias - 12 * weight, 0, 20_001, dtype=torch.float64)
    density = torch.exp(-(((x - bias) / weight) ** 2) / 2)
    expected = torch.trapezoid(x * density, x) / torch.trapezoid(density, x)
    for sign in (1, -1):
        assert margins_of(norm(sign * weight, bias)).item() == pytest.approx(
            expected.item(), rel=1e-4, abs=1e-4
        )


@pytest.mark.parametrize(
    ("weight", "bias", "margin"),
    [
        (0.5, 2.0, -1.5),
        (-0.5, 2.0, -1.5),
        (0.0, 1.0, 0.0),
        (0.0, -1.0, -1.0),
        (0.0, 0.0, 0.0),
        (1e-6, -50.0, -50.0),
    ],
)
def test_a_margin_where_nearly_nothing_or_everything_is_removed(weight, bias, margin):
    assert margins_of(norm(weight, bias)).item() == pytest.approx(margin, abs=1e-9)


def test_the_margins_are_the_teachers_and_stored():
    case = sides(teacher="wrn_16_2")
    objective = bound(OFD(), case)
    for number, norms in enumerate(case.networks[1].stage_norms().values()):
        torch.testing.assert_close(objective.state_dict()[f"margin{number}"], margins_of(norms))
    assert len(objective.connectors) == 3


def test_maps_of_two_sizes_meet_at_the_smaller():
    case = sides(student="ShuffleV1", teacher="resnet8x4")
    objective = bound(OFD(), case)
    ours, theirs = (
        case.student.select_features(objective.student_features),
        case.teacher.select_features(objective.teacher_features),
    )
    assert [2 * s.shape[-1] for s in ours] == [t.shape[-1] for t in theirs]
    connected = [connect(s) for connect, s in zip(objective.connectors, ours, strict=True)]
    margins = [margins_of(norms) for norms in case.networks[1].stage_norms().values()]
    expected = formula(connected, [F.avg_pool2d(t, 2) for t in theirs], margins)
    torch.testing.assert_close(objective(case.student, case.teacher, case.batch), expected)


def test_connectors_start_as_he_normal_by_fan_out():
    (convolution, batchnorm) = bound(OFD(), sides(student="resnet8x4", teacher="resnet20")).connectors[-1]
    assert convolution.bias is None
    assert convolution.weight.shape == (64, 256, 1, 1)
    assert convolution.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.03)
    assert isinstance(batchnorm, nn.BatchNorm2d)


@pytest.mark.parametrize("teacher", ["ShuffleV2", "timm/test_resnet"])
def test_refuses_a_teacher_without_norms_to_name(teacher):
    case = sides()
    objective = OFD()
    objective.student_features = objective.teacher_features = ("stage2.pre", "stage3.pre")
    with pytest.raises(ValueError, match=r"names none for stage2, stage3; choose a resnet"):
        objective.setup(case.networks[0], create_model(teacher, 10), None, case.dataset_info)
