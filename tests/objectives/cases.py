"""The inputs of the worked values, random ones for the properties, and two real networks' answers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss
from kdbench.models.features import answer_batch, feature_names
from kdbench.models.registry import create_model

STUDENT = torch.tensor([[1.0, 0.5, -0.5], [0.2, -0.3, 1.1]], dtype=torch.float64)
TEACHER = torch.tensor([[2.0, 0.0, -1.0], [-0.5, 0.3, 2.5]], dtype=torch.float64)
TARGET = torch.tensor([0, 2])

Term = Callable[[Tensor], Tensor]
"""A loss as a function of the student's logits alone."""

temperatures = st.floats(0.5, 20.0)
gammas = st.floats(0.05, 1.0)


def normal(seed: int, rows: int, classes: int, scale: float = 2.0) -> Tensor:
    """Float64 logits [rows, classes]."""
    draws = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * draws


@st.composite
def pairs(draw: st.DrawFn, max_classes: int = 12) -> tuple[Tensor, Tensor]:
    """Student and teacher logits of one shape."""
    seed, rows, classes = (
        draw(st.integers(0, 2**31)),
        draw(st.integers(1, 6)),
        draw(st.integers(2, max_classes)),
    )
    return normal(seed, rows, classes), normal(seed + 1, rows, classes)


def targets(logits: Tensor) -> Tensor:
    """A label for every row, all classes in turn."""
    return torch.arange(len(logits)) % logits.shape[-1]


def value_and_gradient(loss: Term, student: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the student's logits."""
    leaf = student.detach().clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def assert_same(ours: Term, formula: Term, student: Tensor) -> None:
    """Value and gradient of the implementation are those of the formula, and finite differences agree."""
    expected = value_and_gradient(formula, student)
    torch.testing.assert_close(value_and_gradient(ours, student), expected, rtol=1e-8, atol=1e-10)
    assert torch.autograd.gradcheck(ours, student.detach().clone().requires_grad_())


def assert_shift_invariant(loss: Callable[[Tensor, Tensor], Tensor], pair: tuple[Tensor, Tensor]) -> None:
    """A constant added to a row of logits, another for each side and row, changes nothing."""
    student, teacher = pair
    shift = torch.arange(1, len(student) + 1, dtype=student.dtype)[:, None]
    moved = loss(student + shift, teacher - shift)
    torch.testing.assert_close(moved, loss(student, teacher), rtol=1e-6, atol=1e-6)


@dataclass(frozen=True)
class Sides:
    """What a student and a teacher answered to a batch, detached, with every feature and a strong view."""

    student: Outputs
    teacher: Outputs
    batch: Batch
    networks: tuple[nn.Module, nn.Module]
    dataset_info: DatasetInfo

    def to(self, dtype: torch.dtype) -> "Sides":
        return replace(self, student=cast(self.student, dtype), teacher=cast(self.teacher, dtype))

    def with_logits(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> "Sides":
        """The same with other logits (a strong view's are theirs, reversed)."""
        sides = [
            replace(
                outputs, raw_logits=logits, parts={"strong": outputs.parts["strong"].with_logits(-logits)}
            )
            for outputs, logits in ((self.student, student), (self.teacher, teacher))
        ]
        target = targets(student) if target is None else target
        return replace(self, student=sides[0], teacher=sides[1], batch=replace(self.batch, target=target))

    def rows(self, index: Tensor) -> "Sides":
        """These rows, in this order."""
        batch = replace(
            self.batch,
            inputs=self.batch.inputs[index],
            target=self.batch.target[index],
            index=self.batch.index[index],
            views={name: inputs[index] for name, inputs in self.batch.views.items()},
        )
        return replace(
            self,
            student=of_all(self.student, lambda t: t[index]),
            teacher=of_all(self.teacher, lambda t: t[index]),
            batch=batch,
        )


def of_all(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    """The outputs with every row tensor changed."""
    return replace(
        outputs,
        raw_logits=change(outputs.logits),
        features={name: change(record) for name, record in outputs.features.items()},
        parts={name: of_all(part, change) for name, part in outputs.parts.items()},
    )


def cast(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    changed = of_all(outputs, lambda t: t.to(dtype))
    weight, bias = outputs.classifier
    return replace(changed, classifier=(weight.to(dtype), bias.to(dtype)))


@cache
def sides(rows: int = 8, classes: int = 10, student: str = "resnet8", teacher: str = "resnet20") -> Sides:
    """Answers in float64 to random images of 16 x 16, in eval mode; the training set has 40 images."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        networks = [create_model(name, classes).double().eval() for name in (student, teacher)]
        colours = 2 * torch.randn(2, rows, 3, 1, 1, dtype=torch.float64)
        images = colours + torch.randn(2, rows, 3, 16, 16, dtype=torch.float64)
    target = torch.arange(rows) % classes
    batch = Batch(images[0], target, torch.arange(rows), epoch=3, views={"strong": images[1]})
    with torch.no_grad():
        for network in networks:  # logits of the size that a trained network's have
            network.get_classifier().weight.mul_(3 / network(images[0]).std())
        answers = [answer_batch(network, batch, feature_names(network)) for network in networks]
    detached = [replace(a, classifier=tuple(t.detach() for t in a.classifier)) for a in answers]
    dataset_info = DatasetInfo(classes, torch.arange(40) % classes, torch.arange(40))
    return Sides(*detached, batch, tuple(networks), dataset_info)


def bound(objective: Objective, case: Sides, dtype: torch.dtype = torch.float64) -> Objective:
    """The objective with its features chosen and its parts made for these two networks."""
    loss = Loss({"it": 1.0}, {"it": objective})
    loss.choose_features(*(feature_names(network) for network in case.networks))
    probes = case.rows(torch.arange(min(4, len(case.batch.target)))).to(torch.float32)
    loss.setup(*case.networks, Probes(probes.student, probes.teacher), case.dataset_info, seed=0)
    return objective.to(dtype)


def term(objective: Objective, case: Sides) -> Tensor:
    """The objective's value; what it remembers is forgotten again."""
    return copy.deepcopy(objective)(case.student, case.teacher, case.batch)


def value_and_gradients(objective: Objective, case: Sides) -> tuple[Tensor, list[Tensor]]:
    """The value, and its gradients by all of the student's tensors (zero where one has no part in it)."""
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    value = term(objective, replace(case, student=of_all(case.student, leaf)))
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(t) if g is None else g for t, g in zip(leaves, gradients, strict=True)
    ]
