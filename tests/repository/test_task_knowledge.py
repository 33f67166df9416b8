"""Only `tasks/` and `data/` know which task a data set has: no other room tests for its class or its name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdbench.tasks import available

PACKAGE = Path(__file__).parents[2] / "kdbench"
TASKS = {task.name for task in available()}
FILES = [
    file
    for file in sorted(PACKAGE.rglob("*.py"))
    if file.relative_to(PACKAGE).parts[0] not in ("tasks", "data")
]


def data_classes() -> set[str]:
    """The names of `TaskData` and of all its subclasses in `kdbench/data`."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for file in (PACKAGE / "data").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    names = {"TaskData"}
    while more := {name for name, its in bases.items() if its & names} - names:
        names |= more
    return names


DATA = data_classes()


def violations(source: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that ask which task it is, each with what it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            if any(isinstance(part, ast.Name) and part.id in DATA for part in ast.walk(node.args[1])):
                yield node.lineno, "isinstance of a data set"
        elif isinstance(node, ast.Compare):
            sides = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
            if any(isinstance(part, ast.Constant) and part.value in TASKS for part in sides):
                yield node.lineno, "comparison with the name of a task"
            elif any(isinstance(part, ast.Attribute) and _is_task_name(part) for part in sides):
                yield node.lineno, "comparison of the name of a task"
        elif isinstance(node, ast.Match | ast.Subscript):
            index = node.subject if isinstance(node, ast.Match) else node.slice
            if any(isinstance(part, ast.Attribute) and _is_task_name(part) for part in ast.walk(index)):
                yield node.lineno, "selection by the name of a task"


def _is_task_name(node: ast.Attribute) -> bool:
    """Whether this is `task.name`, `data.task`, `x.task.name` or the like."""
    path = ast.unparse(node)
    return path.endswith(("task.name", "task.like", "data.task"))


def test_data_classes_are_found():
    assert {"TaskData", "ImageData", "StreamedImages", "TextData", "RationaleData"} <= DATA


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(plan.data, ImageData)",
        "isinstance(data, ImageData | TextData)",
        "isinstance(self.data, (TextData, int))",
        'data.task == "lm"',
        'record.get("task", "images") != "images"',
        'name in ("rationale", "lm")',
        "plan.task.name != other",
        "TABLE[task.name]",
    ],
)
def test_knowledge_of_a_task_is_recognised(line):
    assert list(violations(line))


@pytest.mark.parametrize("line", ["isinstance(node, dict)", "task.name", 'f"task={task.name}"', "data.task"])
def test_other_uses_of_a_task_are_allowed(line):
    assert not list(violations(line))


def test_no_other_room_asks_which_task_it_is():
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {what}"
        for file in FILES
        for line, what in violations(file.read_text())
    ]
    assert not found, "ask the task (kdbench.tasks) instead:\n" + "\n".join(found)
