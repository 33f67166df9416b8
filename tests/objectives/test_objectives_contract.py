"""The contract of every objective, at its default parameters: a new file is covered at once."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import Tensor

from kdbench import objectives
from kdbench.core.objective import Objective
from kdbench.core.traits import tasks_of
from kdbench.losses.composite import Loss
from tests.objectives.cases import bound, normal, of_all, sides, term, value_and_gradients

NODES = objectives.configurations()
NEEDS = {
    "logits", "labels", "features", "pooled", "classifier", "index", "epoch", "step", "views", "class frequencies",
    "teacher weights", "inputs",
}  # fmt: skip
"""What `cases.sides` supplies."""

SIDES = ("student", "teacher", "target")

every_name = pytest.mark.parametrize("name", NODES)


def build(name: str) -> Objective:
    return objectives.create(name, **{key: value for key, value in NODES[name].items() if key != "_target_"})


ON_IMAGES = [name for name in NODES if "images" in tasks_of(build(name))]
every_objective = pytest.mark.parametrize("name", ON_IMAGES)
"""What looks at texts alone is tried in tests/text."""


def reads_logits_alone(name: str) -> bool:
    return not {"features", "pooled"} & set(build(name).needs)


on_logits = pytest.mark.parametrize("name", [name for name in ON_IMAGES if reads_logits_alone(name)])


def own_parameters(objective: type[Objective]) -> dict[str, inspect.Parameter]:
    has_own = "__init__" in vars(objective)  # else the signature is nn.Module's
    return dict(inspect.signature(objective).parameters) if has_own else {}


def extremes(kind: str, rows: int = 6, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Logits of magnitude 1e4 that float32 holds exactly."""
    student, teacher = (
        normal(0, rows, classes, scale=1.0).float(),
        normal(1, rows, classes, scale=1.0).float(),
    )
    if kind == "spread":
        return 1e4 * student.clamp(-1, 1), 1e4 * teacher.clamp(-1, 1)
    if kind == "signs":
        return 1e4 * student.sign(), 1e4 * teacher.sign()
    if kind == "constant":
        return torch.full_like(student, 1e4), torch.full_like(teacher, -1e4)
    return 1e4 + student, teacher - 1e4


def test_files_yamls_and_registry_hold_together():
    modules = {module.name for module in pkgutil.iter_modules(objectives.__path__)}
    assert modules == set(NODES)
    assert modules <= {entry.name for entry in objectives.available()}


@every_name
def test_the_yaml_names_the_class_and_all_its_parameters(name):
    objective = type(build(name))
    assert NODES[name]["_target_"] == f"{objective.__module__}.{objective.__name__}"
    assert objective.__module__ == f"kdbench.objectives.{name}"
    parameters = own_parameters(objective)
    assert set(NODES[name]) == {"_target_", *parameters}
    for key, parameter in parameters.items():
        assert parameter.default in (parameter.empty, NODES[name][key]), key


@every_name
def test_the_function_and_the_class_agree_on_what_both_have(name):
    function = getattr(importlib.import_module(f"kdbench.objectives.{name}"), f"{name}_loss")
    of_class = own_parameters(type(build(name)))
    for key, parameter in inspect.signature(function).parameters.items():
        if "Tensor" in str(parameter.annotation):  # what it is computed of; a mask may be left out
            continue
        assert key in of_class or parameter.default is parameter.empty, f"{key} cannot be set in the class"
        assert key not in of_class or of_class[key].default in (parameter.default, parameter.empty), key


@every_name
def test_says_what_it_is(name):
    objective = type(build(name))
    module = importlib.import_module(objective.__module__)
    assert objective.paper.title
    assert 2006 <= objective.paper.year <= 2030
    assert objective.paper.arxiv in module.__doc__.splitlines()[0]
    assert str(objective.paper.year) in module.__doc__.splitlines()[0]
    assert objective.formula
    assert "\n" not in objective.formula
    assert objective.defaults_from or not own_parameters(objective)
    for documented in (objective, objective.forward, getattr(module, f"{name}_loss")):
        assert documented.__doc__


@every_objective
def test_its_needs_are_met_here(name):
    objective = build(name)
    assert set(objective.needs) <= NEEDS
    assert ("views" in objective.needs) == bool(objective.views)
    asks_for_maps = {
        name for name in (*objective.student_features, *objective.teacher_features) if name != "pooled"
    }
    assert ("features" in objective.needs) == bool(asks_for_maps)


@on_logits
@pytest.mark.parametrize("kind", ["spread", "signs", "constant", "offset"])
def test_finite_and_as_in_float64_at_extreme_logits(name, kind):
    student, teacher = extremes(kind)
    case = sides(rows=6).to(torch.float32).with_logits(student, teacher)
    value, gradients = value_and_gradients(bound(build(name), case, torch.float32), case)
    exact = term(bound(build(name), case), case.to(torch.float64))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert abs(value.double() - exact) <= 1e-3 * max(1.0, abs(exact))


@every_objective
@pytest.mark.parametrize("change", ["zero", "constant", "huge", "tiny"])
def test_finite_where_features_are_degenerate(name, change):
    """A dead network, one that says the same to everything, and ones whose values are far from 1."""
    changes = {
        "zero": torch.zeros_like,
        "constant": torch.ones_like,
        "huge": lambda t: 1e4 * t,
        "tiny": lambda t: 1e-12 * t,
    }
    case = sides().to(torch.float32)
    objective = bound(build(name), case, torch.float32)
    dead = type(case)(
        of_all(case.student, changes[change]), case.teacher, case.batch, case.networks, case.dataset_info
    )
    value, gradients = value_and_gradients(objective, dead)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_objective
@pytest.mark.parametrize(("rows", "classes"), [(1, 10), (4, 2)])
def test_finite_for_one_row_and_for_two_classes(name, rows, classes):
    case = sides(rows, classes).to(torch.float32)
    objective = bound(build(name), case, torch.float32).eval()  # BatchNorm trains on more than one value
    value, gradients = value_and_gradients(objective, case)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_objective
def test_under_bfloat16_autocast_the_maths_is_float32(name):
    """Answers in bfloat16, as a student under autocast gives them."""
    case = sides()
    loss = Loss({"it": 1.0}, {"it": bound(build(name), case, torch.float32)})
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.bfloat16().requires_grad_())
        return leaves[-1]

    low = case.to(torch.bfloat16)  # of a float64 that Loss would leave alone
    student, teacher = of_all(low.student, leaf), low.teacher
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = loss(student, teacher, case.batch)
    assert total.dtype == torch.float32
    assert total.isfinite()
    if not loss.needs_student:
        return
    found = [g for g in torch.autograd.grad(total, leaves, allow_unused=True) if g is not None]
    assert all(gradient.isfinite().all() for gradient in found)
    assert any(gradient.abs().sum() > 0 for gradient in found)


@every_objective
def test_no_gradient_reaches_the_teacher(name):
    """Not through a loss, whoever answered: its logits, features, second view and classifier."""
    case = sides()
    loss = Loss({"it": 1.0}, {"it": bound(build(name), case)})
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.clone().requires_grad_())
        return leaves[-1]

    head = tuple(leaf(tensor) for tensor in case.teacher.classifier)
    teacher = dataclasses.replace(of_all(case.teacher, leaf), classifier=head)
    total, _ = loss(of_all(case.student, lambda t: t.clone().requires_grad_()), teacher, case.batch)
    total.backward()
    assert not any(tensor.grad is not None for tensor in leaves)


@every_objective
def test_is_a_scalar_that_moves_the_student_alone(name):
    case = sides()
    objective = bound(build(name), case)
    value, gradients = value_and_gradients(objective, case)
    assert value.shape == ()
    assert any(gradient.abs().sum() > 0 for gradient in gradients) == objective.needs_student
    assert not any(parameter.requires_grad for parameter in objective.buffers())


@every_objective
def test_what_it_learns_moves_and_what_is_frozen_does_not(name):
    case = sides()
    objective = bound(build(name), case)
    if list(objective.parameters()):
        objective(case.student, case.teacher, case.batch).backward()
    for key, parameter in objective.named_parameters():
        moves = parameter.grad is not None and parameter.grad.isfinite().all()
        assert bool(moves) == parameter.requires_grad, key


@every_objective
def test_the_order_of_rows_matters_only_where_declared(name):
    case = sides()
    objective = bound(build(name), case).eval()
    shuffled = term(objective, case.rows(torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])))
    same = torch.isclose(shuffled, term(objective, case), rtol=1e-9, atol=1e-12).item()
    assert same != objective.order_dependent


@every_objective
def test_rows_are_coupled_exactly_where_declared(name):
    case = sides()
    objective = bound(build(name), case).eval()  # connectors' BatchNorm apart, as a student's
    halves = [term(objective, case.rows(torch.arange(start, start + 4))) for start in (0, 4)]
    separable = torch.isclose(sum(halves) / 2, term(objective, case), rtol=1e-9).item()
    assert separable != objective.couples_rows


@every_objective
def test_a_row_that_counts_twice_weighs_twice(name):
    """A mean over rows: three copies of a batch are worth the batch, coupled or not, unless it says otherwise."""
    case = sides()
    objective = bound(build(name), case).eval()
    thrice = term(objective, case.rows(torch.arange(8).repeat(3)))
    same = torch.isclose(thrice, term(objective, case), rtol=1e-6, atol=1e-9).item()
    assert same != (objective.depends_on_batch_size or objective.order_dependent)


@every_name
def test_what_is_read_from_the_source_is_what_the_class_has(name):
    declared, objective = objectives.declaration(name), type(build(name))
    assert (
        declared.attributes["paper"]
        == tuple(dataclasses.astuple(objective.paper))[: len(declared.attributes["paper"])]
    )
    for key, value in declared.attributes.items():
        if key not in ("paper", "__slots__"):
            assert getattr(objective, key) == value, key
