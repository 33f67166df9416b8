import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdbench.objectives.ft import FT, ft_loss
from tests.objectives.cases import assert_same, bound, normal, sides, term

S = torch.arange(1, 97, dtype=torch.float64).sin().view(2, 3, 4, 4)
T = (torch.arange(1, 41, dtype=torch.float64) / 2).cos().view(2, 5, 2, 2)


def attention(factor: Tensor, p1: float) -> Tensor:
    energy = (factor.abs() ** p1).mean(1).flatten(1)
    return energy / (energy**2).sum(1, keepdim=True).sqrt()


def formula(student: Tensor, teacher: Tensor, p1: float, p2: float) -> Tensor:
    if student.shape[-1] > teacher.shape[-1]:
        student = F.adaptive_avg_pool2d(student, teacher.shape[-2:])
    return ((attention(student, p1) - attention(teacher, p1)).abs() ** p2).mean()


def test_worked_value():
    """X49."""
    assert ft_loss(S, T).item() == pytest.approx(0.247170120435, abs=1e-9)


@pytest.mark.parametrize(("p1", "p2"), [(2.0, 1.0), (2.0, 2.0), (3.0, 1.0), (1.0, 2.0)])
def test_value_and_gradient_are_the_formulas(p1, p2):
    teacher = normal(1, 3, 20).view(3, 5, 2, 2)
    student = normal(0, 3, 96).view(3, 6, 4, 4)
    assert_same(lambda s: ft_loss(s, teacher, p1, p2), lambda s: formula(s, teacher, p1, p2), student)


def test_the_larger_of_two_sizes_is_averaged_whichever_it_is():
    assert ft_loss(T, S).item() == pytest.approx(0.247170120435, abs=1e-9)


@given(st.integers(0, 1000), st.floats(0.01, 100.0))
def test_neither_scale_nor_sign_nor_the_order_of_channels_counts(seed, factor):
    student, teacher = normal(seed, 2, 18).view(2, 2, 3, 3), normal(seed + 1, 2, 27).view(2, 3, 3, 3)
    expected = ft_loss(student, teacher)
    torch.testing.assert_close(ft_loss(-factor * student, teacher.flip(1)), expected)
    assert ft_loss(student, factor * student) < 1e-12


def test_the_second_phase_takes_over_what_the_first_has_learned():
    case = sides()
    first, second = bound(FT(phase="paraphrase"), case), bound(FT(), case)
    learned = first.state_dict()
    assert set(learned) == {key for key in second.state_dict() if key.startswith("paraphraser.")}
    assert all(torch.equal(second.state_dict()[key], value) for key, value in learned.items())
    second.load_state_dict({key: value + 1 for key, value in learned.items()}, strict=False)
    assert term(second, case) != term(bound(FT(), case), case)


def test_the_first_phase_rebuilds_the_teachers_map():
    case = sides()
    objective = bound(FT(phase="paraphrase"), case)
    assert not objective.needs_student
    assert objective.student_features == ()
    assert all(parameter.requires_grad for parameter in objective.parameters())
    (theirs,) = case.teacher.select_features(objective.teacher_features)
    expected = ((objective.paraphraser(theirs) - theirs) ** 2).mean()
    torch.testing.assert_close(term(objective, case), expected)


def test_the_first_phase_learns():
    case = sides()
    objective = bound(FT(phase="paraphrase"), case)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)
    before = term(objective, case).item()
    for _ in range(30):
        optimizer.zero_grad()
        objective(case.student, case.teacher, case.batch).backward()
        optimizer.step()
    assert term(objective, case).item() < 0.7 * before


def test_the_second_phase_trains_the_translator_alone():
    case = sides(student="ShuffleV1", teacher="wrn_16_2")
    objective = bound(FT(), case)
    learned = {key for key, parameter in objective.named_parameters() if parameter.requires_grad}
    assert learned == {key for key, _ in objective.named_parameters() if key.startswith("translator.")}
    (ours,), (theirs,) = (
        side.select_features(features)
        for side, features in (
            (case.student, objective.student_features),
            (case.teacher, objective.teacher_features),
        )
    )
    factors = objective.translator(ours), objective.paraphraser[0](theirs)
    assert [factor.shape[1] for factor in factors] == [64, 64]  # half of the teacher's 128
    torch.testing.assert_close(objective(case.student, case.teacher, case.batch), ft_loss(*factors))


def test_only_the_translator_normalises():
    kinds = [[type(layer) for layer in part.modules()] for part in bound(FT(), sides()).children()]
    assert [kind.count(nn.BatchNorm2d) for kind in kinds] == [0, 3]
    assert [kind.count(nn.LeakyReLU) for kind in kinds] == [6, 3]


@pytest.mark.parametrize(
    ("wrong", "named"), [({"phase": "both"}, "phase"), ({"p1": 0.5}, "p1"), ({"p2": float("inf")}, "p2")]
)
def test_refuses(wrong, named):
    with pytest.raises(ValueError, match=named):
        FT(**wrong)
