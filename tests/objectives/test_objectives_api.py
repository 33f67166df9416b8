"""Objectives as a user of plain PyTorch calls them: tensors in, a scalar out, and functions by import."""

import inspect
import subprocess
import sys

import pytest
import torch

from kdbench import objectives
from kdbench.core import Batch, Objective, Outputs
from kdbench.objectives.dkd import dkd_loss as dkd_loss_of_module
from tests.objectives.cases import STUDENT, TARGET, TEACHER


def created(name: str) -> Objective:
    """The objective, with 0.5 for each parameter without a default."""
    parameters = inspect.signature(objectives.objective_class(name)).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return objectives.create(name, **dict.fromkeys(required, 0.5))


def on_logits() -> list[str]:
    return [
        entry.name
        for entry in objectives.available()
        if set(entry.needs) <= {"logits", "labels", "epoch"} and entry.name != "mcmi"
    ]


def outputs_value(name: str, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    batch = Batch(torch.empty(2, 0), TARGET, torch.arange(2))
    return created(name)(Outputs(student), Outputs(teacher), batch)


@pytest.mark.parametrize("name", on_logits())
def test_tensors_give_the_value_of_outputs(name: str) -> None:
    loss = created(name)
    student = STUDENT.clone().requires_grad_()
    value = loss(student, TEACHER, TARGET)
    assert value.shape == ()
    torch.testing.assert_close(value, outputs_value(name, STUDENT, TEACHER), rtol=0, atol=0)
    value.backward()
    assert student.grad is not None


def test_labels_are_optional_where_they_are_not_needed() -> None:
    loss = objectives.create("wttm", gamma=0.2)
    assert loss(STUDENT, TEACHER) == loss(STUDENT, TEACHER, TARGET)


def test_half_precision_is_computed_in_float32() -> None:
    value = objectives.create("kd")(STUDENT.bfloat16(), TEACHER.bfloat16())
    assert value.dtype == torch.float32


def test_no_gradient_flows_to_the_teacher() -> None:
    teacher = TEACHER.clone().requires_grad_()
    objectives.create("kd")(STUDENT.clone().requires_grad_(), teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "dkd",
            (STUDENT, TEACHER),
            r"DKD: the labels are missing; call loss\(student_logits, teacher_logits, target\)",
        ),
        ("kd", (STUDENT,), "KD: the teacher's logits are missing"),
        ("kd", (STUDENT, TEACHER[:1]), r"\[N, C\], got \[2, 3\] and \[1, 3\]"),
        ("kd", (STUDENT[None], TEACHER[None]), r"flatten\(0, -2\)"),
        ("dkd", (STUDENT, TEACHER, TARGET[:1]), r"the labels must be \[2\], got \[1\]"),
        ("reviewkd", (STUDENT, TEACHER), "ReviewKD needs features, pooled.*kdbench.Distiller"),
        ("crd", (STUDENT, TEACHER), "CRD needs pooled, index, step"),
        ("mcmi", (STUDENT, TEACHER, TARGET), "extra forward passes"),
    ],
)
def test_what_tensors_cannot_serve_is_explained(name: str, arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objectives.create(name)(*arguments)


def test_every_objective_has_its_loss_function() -> None:
    functions = objectives.loss_functions()
    assert {f"{name}_loss" for name in objectives.names()} <= set(functions) | {"mcmi_loss"}
    assert set(functions) <= set(dir(objectives))
    for name in functions:
        assert getattr(objectives, name).__name__ == name


def test_a_function_is_the_one_of_its_module() -> None:
    from kdbench.objectives import dkd_loss

    assert dkd_loss is dkd_loss_of_module


def test_an_unknown_function_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="nowhere_loss"):
        from kdbench.objectives import nowhere_loss  # noqa: F401


def test_importing_one_function_loads_one_objective() -> None:
    code = (
        "import sys; from kdbench.objectives import wttm_loss; "
        "loaded = [name for name in sys.modules if name.startswith('kdbench.objectives.')]; "
        "assert loaded == ['kdbench.objectives.wttm'], loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
