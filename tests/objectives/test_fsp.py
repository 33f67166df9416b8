import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.fsp import FSP, fsp_loss
from tests.objectives.cases import assert_same, bound, normal, sides, term


def waves(function, count: int, step: float, *shape: int) -> Tensor:
    return function(step * torch.arange(1, count + 1, dtype=torch.float64)).view(shape)


STUDENT = [waves(torch.sin, 96, 1.0, 2, 3, 4, 4), waves(torch.sin, 16, 0.3, 2, 2, 2, 2)]
TEACHER = [waves(torch.cos, 96, 0.2, 2, 3, 4, 4), waves(torch.sin, 16, 0.7, 2, 2, 2, 2)]


def flow(bottom: Tensor, top: Tensor) -> Tensor:
    """Position by position."""
    if bottom.shape[-1] > top.shape[-1]:
        bottom = F.adaptive_avg_pool2d(bottom, top.shape[-2:])
    rows, columns = top.shape[-2:]
    products = [bottom[:, :, None, y, x] * top[:, None, :, y, x] for y in range(rows) for x in range(columns)]
    return torch.stack(products).mean(0)


def formula(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    pairs = zip(student, student[1:], teacher, teacher[1:], strict=False)
    return sum(((flow(a, b) - flow(c, d)) ** 2).mean() for a, b, c, d in pairs)


def split(maps: Tensor) -> list[Tensor]:
    """Three maps, two of one size, out of rows of 84 numbers."""
    return [maps[:, :32].view(-1, 2, 4, 4), maps[:, 32:80].view(-1, 3, 4, 4), maps[:, 80:].view(-1, 1, 2, 2)]


def test_worked_value():
    """X51."""
    assert fsp_loss(STUDENT, TEACHER).item() == pytest.approx(0.074805136618, abs=1e-9)


def test_value_and_gradient_are_the_formulas():
    teacher = split(normal(1, 3, 84))
    student = normal(0, 3, 84)
    assert_same(lambda s: fsp_loss(split(s), teacher), lambda s: formula(split(s), teacher), student)


@given(st.integers(0, 1000))
def test_zero_on_itself_and_for_positions_in_another_order(seed):
    maps = [normal(seed + k, 2, 18).view(2, 2, 3, 3) for k in range(3)]
    elsewhere = [record.transpose(2, 3).flip(2) for record in maps]
    assert fsp_loss(maps, maps) == 0
    assert fsp_loss(maps, elsewhere) < 1e-20


def test_sizes_may_differ_between_the_sides():
    """Twice as high and wide with every value four times: the same flow."""
    larger = [record.repeat_interleave(2, 2).repeat_interleave(2, 3) for record in TEACHER]
    assert fsp_loss(TEACHER, larger) < 1e-20


def test_two_networks_of_one_width():
    case = sides()
    objective = bound(FSP(), case)
    assert objective.student_features == ("stem", "stage1", "stage2", "stage3")
    assert not list(objective.parameters())
    features = (
        case.student.select_features(objective.student_features),
        case.teacher.select_features(objective.teacher_features),
    )
    torch.testing.assert_close(term(objective, case), formula(*features))


@pytest.mark.parametrize("teacher", ["resnet8x4", "wrn_16_2"])
def test_refuses_networks_of_two_widths(teacher):
    with pytest.raises(
        ValueError, match=r"the student's maps are .*16, 16, 16.* the teacher's .*such as resnet20"
    ):
        bound(FSP(), sides(teacher=teacher))


def test_refuses_lists_of_different_lengths():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        fsp_loss(STUDENT, TEACHER[:1])
