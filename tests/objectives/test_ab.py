import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdbench.core.objective import Probes
from kdbench.core.types import Outputs
from kdbench.objectives.ab import AB, ab_loss
from tests.objectives.cases import assert_same, bound, normal, sides, term

S = torch.arange(1, 97, dtype=torch.float64).sin().view(2, 3, 4, 4)
T = torch.arange(96, dtype=torch.float64).cos().view(2, 3, 4, 4)


def formula(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The two cases of the paper, each with its own indicator."""
    total = torch.zeros((), dtype=student[0].dtype)
    for depth, (s, t) in enumerate(zip(student, teacher, strict=True)):
        closed = (s + 1) ** 2 * ((s > -1) & (t <= 0))
        opened = (s - 1) ** 2 * ((s <= 1) & (t > 0))
        total = total + 2.0 ** (depth - len(student) + 1) * 3 / 1000 * (closed + opened).sum() / len(s)
    return total


def split(maps: Tensor) -> list[Tensor]:
    """Maps of two sizes out of rows of 80 numbers."""
    return [maps[:, :32].view(-1, 2, 4, 4), maps[:, 32:].view(-1, 12, 2, 2)]


def test_worked_value():
    """X48."""
    assert ab_loss([S], [T]).item() == pytest.approx(0.066019643448, abs=1e-9)


def test_value_and_gradient_are_the_formulas():
    teacher = split(normal(1, 3, 80))
    student = normal(0, 3, 80)
    assert_same(lambda s: ab_loss(split(s), teacher), lambda s: formula(split(s), teacher), student)


def test_a_stage_weighs_half_as_much_as_the_next():
    deepest = ab_loss([S], [T])
    torch.testing.assert_close(ab_loss([S, S, S], [T, T, T]), 1.75 * deepest)
    torch.testing.assert_close(ab_loss([0 * S, S], [T, T]), 0.5 * ab_loss([0 * S], [T]) + deepest)


def test_a_closed_unit_of_the_teacher_is_one_at_zero_too():
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    assert ab_loss([-one], [zero]) == 0
    assert ab_loss([one], [zero]).item() == pytest.approx(4 * 3 / 1000)


@given(st.integers(0, 1000), st.floats(1.0, 100.0))
def test_only_the_teachers_signs_count_and_a_margin_of_one_is_enough(seed, factor):
    student, teacher = normal(seed, 2, 18).view(2, 2, 3, 3), normal(seed + 1, 2, 18).view(2, 2, 3, 3)
    torch.testing.assert_close(ab_loss([student], [factor * teacher]), ab_loss([student], [teacher]))
    assert ab_loss([factor * teacher.sign()], [teacher]) == 0
    assert ab_loss([student], [teacher]) >= 0


def test_maps_of_one_shape_are_compared_as_they_are():
    case = sides()
    objective = bound(AB(), case)
    assert not list(objective.parameters())
    expected = formula(
        case.student.select_features(objective.student_features),
        case.teacher.select_features(objective.teacher_features),
    )
    torch.testing.assert_close(term(objective, case), expected)


def test_others_are_connected_without_a_relu():
    case = sides(student="ShuffleV1", teacher="resnet20")
    objective = bound(AB(), case)
    for connect, ours, theirs in zip(
        objective.connectors,
        case.student.select_features(objective.student_features),
        case.teacher.select_features(objective.teacher_features),
        strict=True,
    ):
        connected = connect(ours)
        assert connected.shape == theirs.shape
        assert (connected < 0).any()
        assert isinstance(connect[0], nn.ConvTranspose2d)  # half as high as the teacher's
    assert term(objective, case).isfinite()


def test_refuses_maps_that_no_regressor_connects():
    objective = AB()
    objective.student_features = objective.teacher_features = ("stage1.pre",)
    probes = (Outputs(torch.zeros(4, 9), {"stage1.pre": torch.zeros(4, 3, h, h)}) for h in (2, 8))
    with pytest.raises(ValueError, match=r"\[3, 2, 2\] .* \[3, 8, 8\]"):
        objective.setup(nn.Identity(), nn.Identity(), Probes(*probes), sides().dataset_info)


def test_refuses_lists_of_different_lengths():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ab_loss([S, S], [T])
