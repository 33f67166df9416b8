"""What every objective promises, tried on each yaml of conf/objective: a new file is covered at once."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from kdbench import objectives
from kdbench.core import Batch, Objective, Outputs

from .cases import normal, targets, value_and_gradient

CONF = Path(__file__).parents[2] / "conf" / "objective"
FILES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted(CONF.glob("*.yaml"))}
SUPPLIED = {"logits", "labels"}
"""The needs that `term` meets."""

SIDES = ("student", "teacher", "target")

every_objective = pytest.mark.parametrize("name", FILES)


def build(name: str) -> Objective:
    return objectives.create(name, **{key: value for key, value in FILES[name].items() if key != "_target_"})


def term(objective: Objective, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
    """The objective on these logits, with each row's label (all classes in turn) where none is given."""
    target = targets(student) if target is None else target
    batch = Batch(inputs=student, target=target, index=torch.arange(len(student)))
    return objective(Outputs(student), Outputs(teacher), batch)


def own_parameters(objective: type[Objective]) -> dict[str, inspect.Parameter]:
    has_own = "__init__" in vars(objective)  # else the signature is nn.Module's
    return dict(inspect.signature(objective).parameters) if has_own else {}


def extremes(kind: str, rows: int = 6, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Float32 logits of magnitude 1e4."""
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
    assert modules == set(FILES)
    assert modules <= {entry.name for entry in objectives.available()}


@every_objective
def test_the_yaml_names_the_class_and_all_its_parameters(name):
    objective = type(build(name))
    assert FILES[name]["_target_"] == f"{objective.__module__}.{objective.__name__}"
    assert objective.__module__ == f"kdbench.objectives.{name}"
    parameters = own_parameters(objective)
    assert set(FILES[name]) == {"_target_", *parameters}
    for key, parameter in parameters.items():
        assert parameter.default in (parameter.empty, FILES[name][key]), key


@every_objective
def test_the_function_and_the_class_share_parameters_and_defaults(name):
    function = getattr(importlib.import_module(f"kdbench.objectives.{name}"), f"{name}_loss")
    shared = [p for p in inspect.signature(function).parameters.values() if p.name not in SIDES]
    of_class = own_parameters(type(build(name))).values()
    assert [(p.name, p.default) for p in shared] == [(p.name, p.default) for p in of_class]


@every_objective
def test_says_what_it_is(name):
    objective = type(build(name))
    module = importlib.import_module(objective.__module__)
    assert objective.paper.title
    assert 2006 <= objective.paper.year <= 2030
    assert objective.paper.arxiv in module.__doc__.splitlines()[0]
    assert str(objective.paper.year) in module.__doc__.splitlines()[0]
    for documented in (objective, objective.forward, getattr(module, f"{name}_loss")):
        assert documented.__doc__


@every_objective
def test_its_needs_are_met_here(name):
    assert set(build(name).needs) <= SUPPLIED, "teach `term` to supply what this objective needs"


@every_objective
@pytest.mark.parametrize("kind", ["spread", "signs", "constant", "offset"])
def test_finite_and_as_in_float64_at_extreme_logits(name, kind):
    objective, (student, teacher) = build(name), extremes(kind)
    value, gradient = value_and_gradient(lambda s: term(objective, s, teacher), student)
    exact = term(objective, student.double(), teacher.double())
    assert gradient.isfinite().all()
    assert abs(value.double() - exact) <= 1e-3 * max(1.0, abs(exact))


@every_objective
@pytest.mark.parametrize(("rows", "classes"), [(1, 10), (4, 2)])
def test_finite_for_one_row_and_for_two_classes(name, rows, classes):
    objective, teacher = build(name), normal(1, rows, classes).float()
    value, gradient = value_and_gradient(
        lambda s: term(objective, s, teacher), normal(0, rows, classes).float()
    )
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_objective
def test_autocast_leaves_it_in_float32(name):
    objective, student, teacher = build(name), normal(0, 8, 10).float(), normal(1, 8, 10).float()
    plain = value_and_gradient(lambda s: term(objective, s, teacher), student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = value_and_gradient(lambda s: term(objective, s, teacher), student)
    assert mixed[0].dtype == torch.float32
    torch.testing.assert_close(mixed, plain)


@every_objective
def test_is_a_scalar_that_moves_the_student_alone(name):
    objective, teacher = build(name), normal(1, 6, 10)
    student = normal(0, 6, 10).requires_grad_()
    value = term(objective, student, teacher)
    assert value.shape == ()
    value.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    if not list(objective.parameters()):
        assert not term(objective, student.detach(), teacher).requires_grad


@every_objective
def test_the_order_of_rows_matters_only_where_declared(name):
    objective, student, teacher = build(name), normal(0, 8, 5), normal(1, 8, 5)
    target, order = targets(student), torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    shuffled = term(objective, student[order], teacher[order], target[order])
    same = torch.isclose(shuffled, term(objective, student, teacher, target), rtol=1e-9, atol=1e-12).item()
    assert same != objective.order_dependent


@every_objective
def test_rows_are_coupled_exactly_where_declared(name):
    objective, student, teacher = build(name), normal(0, 8, 5), normal(1, 8, 5)
    target = targets(student)
    halves = [term(objective, student[h], teacher[h], target[h]) for h in (slice(0, 4), slice(4, 8))]
    separable = torch.isclose(sum(halves) / 2, term(objective, student, teacher, target), rtol=1e-9).item()
    assert separable != objective.couples_rows


@every_objective
def test_a_row_that_counts_twice_weighs_twice(name):
    """A mean over rows: three copies of a batch are worth the batch, coupled or not."""
    objective, student, teacher = build(name), normal(0, 4, 5), normal(1, 4, 5)
    target = targets(student)
    thrice = term(objective, student.repeat(3, 1), teacher.repeat(3, 1), target.repeat(3))
    torch.testing.assert_close(thrice, term(objective, student, teacher, target), rtol=1e-6, atol=1e-9)
