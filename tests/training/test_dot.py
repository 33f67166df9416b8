"""DOT: two momenta, step by step, and in a run."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss
from kdbench.objectives import create
from kdbench.objectives.kd import kd_loss
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.training.dot import DOT
from kdbench.training.schedule import Schedule
from kdbench.training.step import Steps
from tests.helpers.composition import compose_checked
from tests.helpers.random_teacher import random_teacher

register()

TINY = ["dataset=fake", "dataset.train=40", "schedule=quick", "schedule.batch_size=16", "schedule.epochs=2"]
TINY += [
    "schedule.nesterov=false",
    "teacher=resnet8",
    "student=resnet8",
    "trainer=cpu",
    "threads=1",
    "progress=false",
]


def schedule(**changes):
    return Schedule(**{"epochs": 2, "batch_size": 8, "lr": 0.1, "plan": "constant", **changes})


def by_hand(start, labels, objectives, lr=0.1, momentum=0.9, delta=0.075, decay=5e-4):
    """A number moved by the two rules of the paper, in Python floats."""
    weight, of_labels, of_objectives = start, 0.0, 0.0
    for one, other in zip(labels, objectives, strict=True):
        of_labels = (momentum - delta) * of_labels + one + decay * weight
        of_objectives = (momentum + delta) * of_objectives + other
        weight -= lr * (of_labels + of_objectives)
    return weight


def moved(start, labels, objectives, delta=0.075):
    """The same by the optimiser; None: that backward does not reach the number."""
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = schedule().optimizer(nn.ParameterList([weight]), delta)
    assert isinstance(optimizer, DOT)
    for one, other in zip(labels, objectives, strict=True):
        weight.grad = None if other is None else torch.tensor(other, dtype=torch.float64)
        optimizer.keep()
        assert weight.grad is None
        weight.grad = None if one is None else torch.tensor(one, dtype=torch.float64)
        optimizer.step()
    return weight.item()


def test_each_side_has_its_own_momentum():
    labels, objectives = [1.0, -0.5, 0.25, 2.0], [0.3, 0.3, -1.0, 0.7]
    assert moved(2.0, labels, objectives) == pytest.approx(by_hand(2.0, labels, objectives), rel=1e-12)


@pytest.mark.parametrize("side", ["labels", "objectives"])
def test_what_one_side_alone_reaches_is_moved_by_sgd(side):
    gradients, none = [1.0, -0.5, 0.25], [None] * 3
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    sgd = schedule().optimizer(nn.ParameterList([weight]))
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        sgd.step()
    given = (gradients, none) if side == "labels" else (none, gradients)
    assert moved(2.0, *given) == pytest.approx(weight.item(), rel=1e-12)


def test_without_a_difference_it_is_sgd():
    labels, objectives = [1.0, -0.5, 0.25], [0.3, 0.3, -1.0]
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    sgd = schedule().optimizer(nn.ParameterList([weight]))
    dot = nn.Parameter(weight.detach().clone())
    other = DOT([dot], lr=0.1, momentum=0.9, delta=0.0, weight_decay=5e-4)
    for one, two in zip(labels, objectives, strict=True):
        weight.grad = torch.tensor(one + two, dtype=torch.float64)
        sgd.step()
        dot.grad = torch.tensor(two, dtype=torch.float64)
        other.keep()
        dot.grad = torch.tensor(one, dtype=torch.float64)
        other.step()
    assert dot.item() == pytest.approx(weight.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": "adamw"}, "schedule.algorithm=adamw; give"),
        ({"nesterov": True}, "schedule.nesterov=True; give schedule.nesterov=false"),
        ({"clip": 1.0}, "schedule.clip=1.0; give"),
        ({"momentum": 0.95}, "schedule.momentum=0.95 less and plus it must lie in [0, 1)"),
    ],
)
def test_other_optimisers_are_refused(changes, words):
    with pytest.raises(ValueError) as caught:
        schedule(**changes).optimizer(nn.Linear(1, 1), 0.075)
    assert words in str(caught.value)


def test_a_run_takes_these_steps(tmp_path, monkeypatch):
    """Each again, from its batch and the teacher's answer, with the gradients of each side by themselves."""
    buffers: dict[str, dict[str, torch.Tensor]] = {"labels": {}, "objectives": {}}
    steps, learn = [], Steps._learn

    def checked(self, student, optimizer, batch, teacher):
        before = copy.deepcopy(student.model)
        values = learn(self, student, optimizer, batch, teacher)
        logits = before(batch.inputs)
        sides = {
            "labels": (0.1 * F.cross_entropy(logits, batch.target), 0.9 - 0.075),
            "objectives": (0.9 * kd_loss(logits, teacher.logits, 4.0), 0.9 + 0.075),
        }
        torch.testing.assert_close(values["total"], sum(value for value, _ in sides.values()).detach())
        rate = optimizer.param_groups[0]["lr"]
        found = dict(student.model.named_parameters())
        for side, (value, momentum) in sides.items():
            own = torch.autograd.grad(value, list(before.parameters()), retain_graph=True)
            for (name, parameter), gradient in zip(before.named_parameters(), own, strict=True):
                decay = 5e-4 * parameter.detach() if side == "labels" else 0.0
                old = buffers[side].get(name, torch.zeros_like(gradient))
                buffers[side][name] = momentum * old + gradient + decay
        for name, parameter in before.named_parameters():
            expected = parameter - rate * (buffers["labels"][name] + buffers["objectives"][name])
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)
        steps.append(rate)
        return values

    monkeypatch.setattr(Steps, "_learn", checked)
    words = [*TINY, "loss=kd_dot", f"output={tmp_path}", random_teacher(tmp_path, "resnet8")]
    run(make_plan(compose_checked("train", words), {}))
    assert len(steps) == 2 * 3


def test_the_total_is_the_sum_of_the_two_sides():
    loss = Loss({"ce": 0.5, "kd": 2.0, "dkd": 1.0}, {name: create(name) for name in ("kd", "dkd")}, dot=0.075)
    student, teacher = (Outputs(logits) for logits in torch.randn(2, 6, 10))
    batch = Batch(student.logits, torch.arange(6), torch.arange(6))
    total, values = loss(student, teacher, batch)
    labels, objectives, same = loss.separate_losses(student, teacher, batch)
    torch.testing.assert_close(total, labels + objectives)
    torch.testing.assert_close(labels, 0.5 * values["ce"])
    assert values == same


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loss=wttm_no_ce", "loss.dot=0.075"], "divides the momentum between ce and the objectives"),
        (["loss=ce", "loss.dot=0.075"], "and the terms with a weight are ce"),
        (["loss=kd", "loss.dot=0"], "loss.dot must lie in (0, 0.5), got 0"),
        (["loss=kd", "loss.dot=0.1"], "schedule.momentum=0.9 less and plus it must lie in [0, 1)"),
        (
            ["loss=kd_dot", "schedule.nesterov=true"],
            "schedule.nesterov=True; give schedule.nesterov=false",
        ),
    ],
)
def test_what_cannot_be_is_said_before_a_run(words, said):
    with pytest.raises(ValueError) as caught:
        make_plan(compose_checked("train", [*TINY, *words]), {})
    assert said in str(caught.value)


def test_the_published_delta():
    for dataset, delta in (("cifar100", 0.075), ("imagenet", 0.09)):
        recipe = compose_checked("train", ["loss=kd_dot", f"dataset={dataset}"]).loss
        assert recipe.dot == delta
        assert recipe.weights == compose_checked("train", ["loss=kd", f"dataset={dataset}"]).loss.weights
