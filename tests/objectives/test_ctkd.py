import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.core.types import Batch, Outputs
from kdbench.objectives.ctkd import CTKD, ctkd_loss, reversal
from kdbench.objectives.kd import kd_loss
from tests.objectives.cases import STUDENT, TEACHER, assert_same, normal, pairs


def formula(student: Tensor, teacher: Tensor, theta: Tensor, t_start: float, t_end: float) -> Tensor:
    t = t_start + t_end / (1 + (-theta).exp())
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    return t**2 * (p * (p / q).log()).sum(1).mean()


def term(objective: CTKD, student: Tensor, teacher: Tensor, epoch: int) -> Tensor:
    rows = torch.arange(len(student))
    return objective(Outputs(student), Outputs(teacher), Batch(student, rows, rows, epoch=epoch))


def test_worked_value():
    """X27."""
    assert ctkd_loss(STUDENT, TEACHER).item() == pytest.approx(0.317493149898, abs=1e-9)


@pytest.mark.parametrize(("theta", "t_start", "t_end"), [(1.0, 1.0, 20.0), (-2.0, 0.5, 3.0)])
def test_value_and_gradient_are_the_formulas_by_both(theta, t_start, t_end):
    student, teacher = normal(0, 5, 7), normal(1, 5, 7)
    start = torch.tensor(theta, dtype=torch.float64)
    ours, expected = (lambda s, x, f=f: f(s, teacher, x, t_start, t_end) for f in (ctkd_loss, formula))
    assert_same(lambda s: ours(s, start), lambda s: expected(s, start), student)
    assert_same(lambda x: ours(student, x), lambda x: expected(student, x), start)


@given(pairs(), st.floats(-9, 9))
def test_is_kd_at_its_temperature(pair, theta):
    t = 1 + 20 / (1 + math.exp(-theta))
    torch.testing.assert_close(ctkd_loss(*pair, theta), kd_loss(*pair, t), rtol=1e-7, atol=1e-9)


def test_the_reversal_is_a_cosine_over_ten_epochs():
    assert [reversal(epoch) for epoch in (5, 10, 11, 240)] == pytest.approx([-0.5, -1, -1, -1])
    assert reversal(1) == pytest.approx((math.cos(math.pi / 10) - 1) / 2)
    assert [reversal(epoch, epochs=2) for epoch in (1, 2, 3)] == pytest.approx([-0.5, -1, -1])


@pytest.mark.parametrize("epoch", [1, 4, 10, 200])
def test_the_gradient_of_theta_is_reversed_and_the_students_is_not(epoch):
    objective = CTKD(epochs=20).double()
    student, teacher = normal(0, 5, 7).requires_grad_(), normal(1, 5, 7)
    plain = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(ctkd_loss(student, teacher, plain), (student, plain))
    got = torch.autograd.grad(term(objective, student, teacher, epoch), (student, objective.theta))
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], reversal(epoch, 20) * expected[1])


@pytest.mark.parametrize("seed", range(4))
def test_descending_raises_the_loss_in_theta(seed):
    objective, student, teacher = CTKD().double(), normal(2 * seed, 8, 10), normal(2 * seed + 1, 8, 10)
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.1)
    before = term(objective, student, teacher, epoch=10)
    before.backward()
    optimiser.step()
    assert term(objective, student, teacher, epoch=10) > before


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_logits_leave_the_temperature_in_its_range(sign):
    objective = CTKD()
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    student, teacher = 1e4 * normal(0, 8, 10).float(), 1e4 * normal(1, 8, 10).float()
    for step in range(50):
        optimiser.zero_grad()
        loss = sign * term(objective, student, teacher, epoch=1 + step)
        loss.backward()
        temperature = 1 + 20 * torch.sigmoid(objective.theta.detach())
        assert loss.isfinite()
        assert 1 < temperature < 21
        assert objective.theta.abs() <= 10
        optimiser.step()
        assert objective.theta.isfinite()
    assert objective.theta.abs() > 1  # it was pushed


def test_theta_is_learned_and_saved_and_left_alone_outside_training():
    objective = CTKD(theta=0.5)
    assert [name for name, _ in objective.named_parameters()] == list(objective.state_dict()) == ["theta"]
    objective.theta.data.fill_(50.0)
    term(objective.eval(), STUDENT, TEACHER, epoch=1)
    assert objective.theta == 50
    term(objective.train(), STUDENT, TEACHER, epoch=1)
    assert objective.theta == 10


WRONG = [
    ("t_start", 0.0),
    ("t_start", math.inf),
    ("t_end", -1.0),
    ("theta", math.nan),
    ("theta", 11.0),
    ("epochs", 0),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_refuses(name, value):
    with pytest.raises(ValueError, match=f"CTKD: {name}"):
        CTKD(**{name: value})
