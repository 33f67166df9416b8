"""A teacher known by its likeliest classes, beside the same teacher known wholly."""

import itertools

import pytest
import torch

from kdbench import objectives
from kdbench.core.logits import TopKLogits
from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss

PARAMETERS = {"alphanet": {"alpha": 0.0, "beta": 1.0}}
SERVED = ("fkl", "rkl", "js", "sfkl", "srkl", "tvd", "wsd", "alphanet")
STUDENT, TEACHER = (
    2 * torch.randn(6, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed in (0, 1)
)


def value_and_gradient(loss, student):
    leaf = student.clone().requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def objective(name: str):
    return objectives.create(name, **PARAMETERS.get(name, {}))


def dense(name: str, student, teacher):
    batch = Batch(student, torch.zeros(len(student), dtype=torch.int64), torch.arange(len(student)))
    return objective(name)(Outputs(student), Outputs(teacher), batch)


def from_topk(name: str, student, known):
    return dense(name, *known.pair_with(student))


def test_all_that_say_so_are_tested_and_no_other():
    assert {
        entry.name for entry in objectives.available() if objectives.objective_class(entry.name).f_divergence
    } == set(SERVED)


@pytest.mark.parametrize("name", SERVED)
def test_all_classes_known_is_the_dense_value_and_gradient(name):
    known = TopKLogits.from_dense(TEACHER, 12)
    found = value_and_gradient(lambda s: from_topk(name, s, known), STUDENT)
    torch.testing.assert_close(found, value_and_gradient(lambda s: dense(name, s, TEACHER), STUDENT))


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("k", [1, 4, 11])
def test_fewer_classes_are_the_dense_value_of_a_teacher_with_the_students_tail(name, k):
    known = TopKLogits.from_dense(TEACHER, k)
    log_q = STUDENT.log_softmax(1)
    rest = log_q.scatter(1, known.indices, -torch.inf)
    spread = rest - rest.logsumexp(1, keepdim=True) + known.tail[:, None]
    spread = spread.scatter(1, known.indices, known.log_probs)
    torch.testing.assert_close(spread.exp().sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(from_topk(name, STUDENT, known), dense(name, STUDENT, spread))


@pytest.mark.parametrize("name", SERVED)
def test_grows_towards_the_dense_value_and_is_never_larger(name):
    values = [from_topk(name, STUDENT, TopKLogits.from_dense(TEACHER, k)).item() for k in range(1, 13)]
    rows = [
        [
            from_topk(name, STUDENT[i : i + 1], TopKLogits.from_dense(TEACHER[i : i + 1], k)).item()
            for k in range(1, 13)
        ]
        for i in range(6)
    ]
    assert all(a <= b + 1e-12 for row in rows for a, b in itertools.pairwise(row))
    assert values[-1] == pytest.approx(dense(name, STUDENT, TEACHER).item())
    assert values[0] < values[-1] - 1e-3


def test_akl_is_not_served_for_it_is_no_such_sum():
    known = TopKLogits.from_dense(TEACHER, 4)
    loss = Loss({"akl": 1.0}, {"akl": objective("akl")})
    batch = Batch(STUDENT, torch.zeros(6, dtype=torch.int64), torch.arange(6))
    with pytest.raises(ValueError, match=r"akl: cannot be computed .* possible are .*fkl, rkl"):
        loss(Outputs(STUDENT), Outputs(known), batch)


def test_a_loss_takes_it_in_place_of_the_teacher_and_the_labels_see_all_classes():
    target = torch.arange(6)
    loss = Loss({"ce": 0.5, "fkl": 1.0}, {"fkl": objective("fkl")})
    total, parts = loss(
        Outputs(STUDENT), Outputs(TopKLogits.from_dense(TEACHER, 4)), Batch(STUDENT, target, target)
    )
    torch.testing.assert_close(parts["fkl"], from_topk("fkl", STUDENT, TopKLogits.from_dense(TEACHER, 4)))
    torch.testing.assert_close(parts["ce"], torch.nn.functional.cross_entropy(STUDENT, target))
    torch.testing.assert_close(total, 0.5 * parts["ce"] + parts["fkl"])


@pytest.mark.parametrize("name", SERVED)
def test_finite_at_extreme_logits_and_for_a_tail_that_was_stored_as_nothing(name):
    student, teacher = 1e4 * STUDENT.float().sign(), 1e4 * TEACHER.float().sign()
    known = TopKLogits.from_dense(teacher, 4)
    for tail in (known.tail, torch.full_like(known.tail, -torch.inf)):
        value, gradient = value_and_gradient(
            lambda s, tail=tail: from_topk(
                name, s, type(known)(known.indices, known.log_probs, tail, known.num_classes)
            ),
            student,
        )
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_a_small_tail_keeps_its_digits_in_float32():
    logits = torch.tensor([[0.0, -30.0, -31.0, -32.0]])
    exact = torch.logsumexp(logits[:, 1:].double(), 1) - torch.logsumexp(logits.double(), 1)
    assert TopKLogits.from_dense(logits, 1).tail.double().item() == pytest.approx(exact.item(), rel=1e-6)
