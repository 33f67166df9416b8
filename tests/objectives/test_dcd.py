import math

import pytest
import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.objectives.dcd import DCD, dcd_loss
from tests.objectives.cases import assert_same, normal, value_and_gradient

STUDENT = torch.arange(1, 13, dtype=torch.float64).sin().view(3, 4)
TEACHER = (torch.arange(1, 13, dtype=torch.float64) / 2).cos().view(3, 4)
E, ZERO = torch.tensor(math.e, dtype=torch.float64), torch.zeros((), dtype=torch.float64)


def formula(
    student: Tensor, teacher: Tensor, scale: float, alpha: float, target: Tensor | None = None
) -> Tensor:
    """target: the student whose columns are the target of the consistency, where that is another one."""

    def similarity(vectors: Tensor) -> Tensor:
        return scale * torch.cosine_similarity(vectors[:, None], teacher[None], dim=2)

    q = similarity(student).softmax(1)
    p = similarity(student if target is None else target).softmax(0).T
    consistency = (p * (p / q).log()).sum(1)
    return (alpha * consistency - q.diagonal().log()).mean()


def side(seed: int, width: int) -> Outputs:
    return Outputs(torch.zeros(5, 2), {"pooled": normal(seed, 5, width)})


def bound(student: Outputs, teacher: Outputs, **parameters: float) -> DCD:
    objective, none = DCD(**parameters), torch.zeros(0, dtype=torch.int64)
    objective.setup(nn.Identity(), nn.Identity(), Probes(student, teacher), DatasetInfo(2, none, none))
    return objective.double()


BATCH = Batch(torch.zeros(5), torch.arange(5), torch.arange(5))


def test_worked_value():
    """X55."""
    assert dcd_loss(STUDENT, TEACHER, E, ZERO).item() == pytest.approx(2.356806823131, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_value_and_gradient_are_the_formulas(alpha):
    student, teacher = normal(0, 5, 4), normal(1, 5, 4)
    assert_same(
        lambda s: dcd_loss(s, teacher, 3 * E, ZERO, alpha),
        lambda s: formula(s, teacher, 3 * math.e, alpha),
        student,
    )


def test_a_detached_target_is_that_of_a_student_that_stands_still():
    student, teacher = normal(0, 5, 4), normal(1, 5, 4)
    ours = value_and_gradient(lambda s: dcd_loss(s, teacher, E, ZERO, detach_target=True), student)
    expected = value_and_gradient(lambda s: formula(s, teacher, math.e, 0.5, target=student), student)
    torch.testing.assert_close(ours, expected)
    free = value_and_gradient(lambda s: dcd_loss(s, teacher, E, ZERO), student)
    assert ours[0] == free[0]
    assert not torch.allclose(ours[1], free[1])


def test_the_bias_changes_nothing():
    torch.testing.assert_close(dcd_loss(STUDENT, TEACHER, E, ZERO + 3), dcd_loss(STUDENT, TEACHER, E, ZERO))


def test_one_row_has_nothing_to_be_told_from():
    value, gradient = value_and_gradient(lambda s: dcd_loss(s, TEACHER[:1], E, ZERO), STUDENT[:1])
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize(("theta", "scale"), [(1.0, math.e), (2.0, math.exp(2))])
def test_embeds_both_sides_and_learns_all(theta, scale):
    student, teacher = side(0, 6), side(1, 9)
    objective = bound(student, teacher, theta=theta)
    ours, theirs = objective.student_embedding, objective.teacher_embedding
    assert (ours.weight.shape, theirs.weight.shape) == ((128, 6), (128, 9))
    value = objective(student, teacher, BATCH)
    e_s = student.features["pooled"] @ ours.weight.T + ours.bias
    e_t = teacher.features["pooled"] @ theirs.weight.T + theirs.bias
    torch.testing.assert_close(value, formula(e_s, e_t, scale, 0.5))
    value.backward()
    learned = {name for name, p in objective.named_parameters() if p.grad.abs().sum() > 1e-12}
    assert learned == {name for name, _ in objective.named_parameters()} - {"bias"}
    assert objective.bias.grad.abs() < 1e-12


def test_the_scale_ends_at_its_maximum():
    student, teacher = side(0, 6), side(1, 9)
    objective = bound(student, teacher)
    with torch.no_grad():
        objective.theta.fill_(4.0)
    value = objective(student, teacher, BATCH)
    value.backward()
    assert objective.theta.grad == 0
    with torch.no_grad():
        objective.theta.fill_(math.log(10.0))
    torch.testing.assert_close(objective(student, teacher, BATCH), value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("dimension", 0), ("alpha", -1.0), ("alpha", math.inf), ("theta", math.nan)]
    + [("max_scale", 2.0), ("max_scale", math.inf)],
)
def test_refuses(name, value):
    with pytest.raises(ValueError, match=f"DCD: {name} .*{value}"):
        DCD(**{name: value})
