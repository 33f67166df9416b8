"""SinKD: the worked value, the transport's marginals, an exact transport, and what the published mass does."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from torch import Tensor

from kdbench.objectives.sinkd import SinKD, sinkd_loss
from tests.objectives.cases import STUDENT, TEACHER, assert_same, assert_shift_invariant, normal, pairs


def cost(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    q, p = (student / t).softmax(1), (teacher / t).softmax(1)
    return (q[:, None] - p[None]).abs().sum(2)


def formula(student: Tensor, teacher: Tensor, t: float, eps: float, iterations: int) -> Tensor:
    """Not in log space: scaling vectors for rows and columns."""
    w = cost(student, teacher, t)
    kernel, u, v = (-w / eps).exp(), torch.ones(len(w), dtype=w.dtype), torch.ones(len(w), dtype=w.dtype)
    for _ in range(iterations):
        u = 1 / (kernel @ v)
        v = 1 / (kernel.T @ u)
    return 0.5 * (u[:, None] * kernel * v * w).sum() / len(w)


def test_worked_value():
    """X35, as published; at mass 1 it is a half of that, for two rows."""
    assert sinkd_loss(STUDENT, TEACHER, official=True).item() == pytest.approx(0.000730291669, abs=1e-9)
    assert sinkd_loss(STUDENT, TEACHER).item() == pytest.approx(0.000730291669 / 2, abs=1e-9)


@pytest.mark.parametrize(("temperature", "eps", "iterations"), [(2.0, 0.1, 20), (1.0, 0.5, 3)])
def test_value_and_gradient_are_the_formulas(temperature, eps, iterations):
    student, teacher = normal(0, 6, 5), normal(1, 6, 5)
    assert_same(
        lambda s: sinkd_loss(s, teacher, temperature, eps, iterations, scale=0.5),
        lambda s: formula(s, teacher, temperature, eps, iterations),
        student,
    )


def test_little_entropy_and_many_iterations_find_the_cheapest_assignment():
    student, teacher = normal(0, 5, 4), normal(1, 5, 4)
    w = cost(student, teacher, 2.0)
    cheapest = min(sum(w[i, j].item() for i, j in enumerate(order)) for order in permutations(range(5))) / 5
    found = sinkd_loss(student, teacher, eps=1e-3, iterations=2000, scale=1.0).item()
    assert found == pytest.approx(cheapest, abs=1e-3)
    assert sinkd_loss(student, teacher, eps=1e4, scale=1.0).item() == pytest.approx(w.mean().item(), abs=1e-4)


def test_the_temperature_is_used():
    assert sinkd_loss(STUDENT, TEACHER, temperature=1.0) > 1.1 * sinkd_loss(STUDENT, TEACHER)


def test_three_copies_of_a_batch_weigh_three_times_as_published_and_once_here():
    student, teacher = normal(0, 4, 5), normal(1, 4, 5)
    thrice = student.repeat(3, 1), teacher.repeat(3, 1)
    torch.testing.assert_close(sinkd_loss(*thrice), sinkd_loss(student, teacher))
    published = sinkd_loss(*thrice, official=True)
    torch.testing.assert_close(published, 3 * sinkd_loss(student, teacher, official=True))
    assert SinKD(official=True).depends_on_batch_size
    assert not SinKD().depends_on_batch_size


@given(pairs())
def test_bounds_and_shifts(pair):
    assert -1e-12 <= sinkd_loss(*pair, scale=1.0) <= 2
    assert_shift_invariant(sinkd_loss, pair)


def test_rows_that_do_not_overlap_have_a_finite_gradient_in_float32():
    """The cost is 2 everywhere, and exp(-2 / eps) is nothing in float32."""
    student = torch.tensor([[1e4, 0.0, 0.0], [1e4, 0.0, 0.0]], requires_grad=True)
    value = sinkd_loss(student, -student.detach(), eps=0.01, scale=1.0)
    value.backward()
    assert value.item() == pytest.approx(2.0)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"eps": -0.1}, {"iterations": 0}, {"scale": 0.0}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SinKD(**wrong)
