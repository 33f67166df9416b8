from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.objectives.cc import CC, cc_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 13, dtype=torch.float64).sin().view(3, 4)
TEACHER = (torch.arange(1, 13, dtype=torch.float64) / 2).cos().view(3, 4)
FACTS = DatasetInfo(2, torch.zeros(4, dtype=torch.int64), torch.arange(4))


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    gaps = [(s - t).abs() for s, t in zip(student, teacher, strict=True)]
    products = [(a * b).sum() for a, b in pairwise(gaps)]
    return torch.stack(products).mean()


def side(seed: int, width: int, rows: int = 4) -> Outputs:
    return Outputs(torch.zeros(rows, 2), {"pooled": normal(seed, rows, width).float()})


def bound(student: Outputs, teacher: Outputs, dimension: int = 128) -> CC:
    objective = CC(dimension)
    objective.setup(nn.Identity(), nn.Identity(), Probes(student, teacher), FACTS)
    return objective


def batch(rows: int) -> Batch:
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Batch(inputs=zeros, target=zeros, index=zeros)


def test_worked_value():
    """X45."""
    assert cc_loss(STUDENT, TEACHER).item() == pytest.approx(3.403983620706, abs=1e-9)


@pytest.mark.parametrize("rows", [2, 5])
def test_value_and_gradient_are_the_formulas(rows):
    teacher = normal(1, rows, 4)
    assert_same(lambda s: cc_loss(s, teacher), lambda s: formula(s, teacher), normal(0, rows, 4))


def test_one_row_has_no_neighbour():
    value, gradient = value_and_gradient(lambda s: cc_loss(s, normal(1, 1, 4)), normal(0, 1, 4))
    assert value == 0
    assert (gradient == 0).all()


def test_three_copies_have_two_seams():
    """The mean over N - 1 neighbours: the last row of a copy meets the first of the next."""
    seam = cc_loss(STUDENT[[2, 0]], TEACHER[[2, 0]])
    expected = (6 * cc_loss(STUDENT, TEACHER) + 2 * seam) / 8
    torch.testing.assert_close(cc_loss(STUDENT.repeat(3, 1), TEACHER.repeat(3, 1)), expected)


def test_equal_vectors_have_no_gradient():
    value, gradient = value_and_gradient(lambda s: cc_loss(s, STUDENT), STUDENT)
    assert value == 0
    assert (gradient == 0).all()


def test_embeds_sides_of_other_widths_and_learns_both():
    student, teacher = side(0, 6), side(1, 10)
    objective = bound(student, teacher)
    value = objective(student, teacher, batch(4))
    ours, theirs = objective.student_embedding, objective.teacher_embedding
    assert (ours.weight.shape, theirs.weight.shape) == ((128, 6), (128, 10))
    e_s = student.features["pooled"] @ ours.weight.T + ours.bias
    e_t = teacher.features["pooled"] @ theirs.weight.T + theirs.bias
    torch.testing.assert_close(value, formula(e_s, e_t))
    value.backward()
    assert [name for name, p in objective.named_parameters() if p.grad.abs().sum() > 0] == [
        "student_embedding.weight",
        "student_embedding.bias",
        "teacher_embedding.weight",
        "teacher_embedding.bias",
    ]


def test_refuses_a_dimension():
    with pytest.raises(ValueError, match=r"CC: dimension .* 0"):
        CC(0)
