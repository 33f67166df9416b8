"""R2KD: worked values, the soft ranks' gradient and the hard ranks' lack of one, and the pruned teacher."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as pruning

from kdbench.objectives.r2kd import R2KD, prune_copy, r2kd_loss, rank_distance, value_distance
from tests.objectives.cases import (
    STUDENT,
    TEACHER,
    assert_same,
    bound,
    normal,
    sides,
    term,
    value_and_gradient,
)


def formula(student: Tensor, teacher: Tensor, t: float, tau: float, centred: bool) -> Tensor:
    """One pair of vectors after the other; the ranks by sigmoids."""
    q, p = (student / t).softmax(1), (teacher / t).softmax(1)

    def value(a: Tensor, b: Tensor) -> Tensor:
        return alike(a - a.mean(), b - b.mean()) if centred else alike(a, b).abs()

    rows = sum(value(a, b) for a, b in zip(q, p, strict=True)) / len(q)
    columns = sum(value(a, b) for a, b in zip(q.T, p.T, strict=True)) / q.shape[1]
    share = 2 / (q.shape[1] * (q.shape[1] + 1))
    total = torch.zeros((), dtype=student.dtype)
    for s, z in zip(student, teacher, strict=True):
        a, b = (share * torch.sigmoid((row[:, None] - row) / tau).sum(1) for row in (s, z))
        total = total + 1 - alike(a - a.mean(), b - b.mean())
    return 2 * t**2 * (2 - rows - columns) + 3 * total / len(q)


def alike(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / ((a @ a).sqrt() * (b @ b).sqrt() + 1e-8)


def test_worked_values():
    """X40 and X41; the soft ranks end at the hard ones. The centred values are DIST's, X24."""
    assert value_distance(STUDENT, TEACHER).item() == pytest.approx(1.688526792833, abs=1e-9)
    assert value_distance(STUDENT, TEACHER, centred=False).item() == pytest.approx(0.540405602920, abs=1e-9)
    assert rank_distance(STUDENT, TEACHER, "hard").item() == pytest.approx(0.250000135000, abs=1e-9)
    assert rank_distance(STUDENT, TEACHER, tau=0.01).item() == pytest.approx(0.250000135000, abs=1e-9)
    both = r2kd_loss(STUDENT, TEACHER, 1.0, 1.0, centred=False, rank="hard")
    assert both.item() == pytest.approx(0.790405737920, abs=1e-9)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("temperature", "tau"), [(4.0, 1.0), (1.0, 0.3)])
def test_value_and_gradient_are_the_formulas(temperature, tau, centred):
    teacher = normal(0, 5, 7)
    assert_same(
        lambda s: r2kd_loss(s, teacher, 2.0, 3.0, temperature, centred, tau=tau),
        lambda s: formula(s, teacher, temperature, tau, centred),
        normal(1, 5, 7),
    )


def test_the_centred_values_tell_an_opposite_student_from_a_uniform_one():
    """At a high temperature all softmaxes are alike to the published cosine, whatever the student says."""
    teacher = normal(0, 6, 10)
    distances = [value_distance(s, teacher, 20.0) / 400 for s in (teacher, 0 * teacher, -teacher)]
    published = [value_distance(s, teacher, 20.0, False) / 400 for s in (teacher, 0 * teacher, -teacher)]
    torch.testing.assert_close(
        torch.stack(distances), torch.tensor([0.0, 2.0, 4.0]).double(), rtol=0, atol=0.1
    )
    assert max(published) < 0.1


def test_the_published_ranks_train_nothing_and_the_soft_ones_do():
    """Every direction in which the published rank term could improve has slope zero."""
    teacher = normal(1, 6, 10)
    student = normal(0, 6, 10).requires_grad_()
    assert not rank_distance(student, teacher, "hard").requires_grad
    _, gradient = value_and_gradient(lambda s: r2kd_loss(s, teacher, 0.0, 2.0), student)
    assert (gradient.abs().sum(1) > 1e-3).all()
    with_rank, without = (
        value_and_gradient(lambda s, w=w: r2kd_loss(s, teacher, 1.0, w, rank="hard"), student)
        for w in (2.0, 0.0)
    )
    assert with_rank[0] > without[0] + 0.1
    torch.testing.assert_close(with_rank[1], without[1], rtol=0, atol=0)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_prunes_the_smallest_weights(scope):
    """As torch's own pruning does, in every convolution and linear layer, and nowhere else."""
    teacher = sides().networks[1]
    expected = copy.deepcopy(teacher)
    layers = [m for m in expected.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    if scope == "layer":
        for layer in layers:
            pruning.l1_unstructured(layer, "weight", 0.3)
    else:
        named = [(layer, "weight") for layer in layers]
        pruning.global_unstructured(named, pruning_method=pruning.L1Unstructured, amount=0.3)
    for layer in layers:
        pruning.remove(layer, "weight")
    ours = prune_copy(teacher, 0.3, scope).state_dict()
    assert all(torch.equal(ours[key], value) for key, value in expected.state_dict().items())
    assert not all(torch.equal(ours[key], value) for key, value in teacher.state_dict().items())


def test_the_teacher_is_mixed_with_its_pruned_copy():
    case = sides()
    copied = prune_copy(case.networks[1], 0.5, "global")
    mixed = 0.25 * case.teacher.logits + 0.75 * copied(case.batch.inputs)
    objective = bound(R2KD(teacher_weight=0.25, prune=0.5, scope="global"), case).train()
    torch.testing.assert_close(term(objective, case), r2kd_loss(case.student.logits, mixed))
    alone = bound(R2KD(teacher_weight=1.0), case)
    torch.testing.assert_close(
        term(alone, case), r2kd_loss(case.student.logits, case.teacher.logits), rtol=0, atol=0
    )
    assert alone.needs == ("logits",)


def test_the_pruned_copy_is_frozen_unsaved_and_moves_along():
    case = sides()
    objective = bound(R2KD(), case, torch.float32).train()
    (network,) = objective._pruned
    assert not objective.state_dict()
    assert not list(objective.parameters())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    assert next(network.parameters()).dtype == torch.float32
    assert next(objective.double()._pruned[0].parameters()).dtype == torch.float64
    assert next(objective.to("meta")._pruned[0].parameters()).is_meta


def test_refuses_a_teacher_without_weights_to_prune():
    with pytest.raises(ValueError, match="no convolution or linear"):
        R2KD().setup(nn.Identity(), nn.Identity(), None, None)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"tau": math.nan}, {"value_weight": -1.0}, {"rank_weight": math.inf},
     {"teacher_weight": 1.5}, {"prune": 1.0}, {"rank": "softest"}, {"scope": "all"}],
)  # fmt: skip
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        R2KD(**wrong)
