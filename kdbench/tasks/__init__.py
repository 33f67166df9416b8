"""The registry of tasks: the files of this folder and those that other packages register.

A data set names its task; `task_of` returns the strategy object. Importing this module does not import torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from kdbench.core.plugins import TASKS
from kdbench.tasks.base import Capability, Task, TeacherTraining

if TYPE_CHECKING:
    from kdbench.core.traits import Traits
    from kdbench.data.base import TaskData

__all__ = [
    "Capability",
    "Task",
    "TeacherTraining",
    "available",
    "get",
    "record_entry",
    "task_of",
    "task_of_record",
    "tasks_for",
]

_BASE = "base"
_WITHOUT_NAME = "images"
"""The task of records that name none."""


def available() -> list[Task[Any]]:
    """Return all tasks: those of this folder by file name, then those of other packages."""
    return [*_built_in().values(), *(get(name) for name in _outside())]


@cache
def get(name: str) -> Task[Any]:
    """Return a task by name.

    Raises:
        ValueError: The name is unknown, or another package's task cannot be imported.
    """
    built_in, outside = _built_in(), _outside()
    if name in built_in:
        return built_in[name]
    if name in outside:
        return _load(name, outside[name])
    raise ValueError(f"unknown task {name!r}; possible: {', '.join((*built_in, *outside))}")


def task_of(data: TaskData) -> Task[Any]:
    """Return the task of a data set."""
    return get(data.task)


def task_of_record(record: Mapping[str, Any]) -> Task[Any]:
    """Return the task of a run from its record; ValueError if this installation does not have it."""
    return get(record.get("task", _WITHOUT_NAME))


def record_entry(task: Task[Any]) -> dict[str, str]:
    """Return the entry of a run's record that `task_of_record` reads."""
    return {} if task.name == _WITHOUT_NAME else {"task": task.name}


def tasks_for(objective: Traits) -> list[str]:
    """Return the names of the tasks that an objective serves, without those that are like another."""
    return [task.name for task in available() if not task.like and task.accepts(objective)]


@cache
def _built_in() -> dict[str, Task[Any]]:
    tasks: dict[str, Task[Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != _BASE:
            task = _class_in(module.name)()
            tasks[task.name] = task
    return tasks


def _class_in(module: str) -> type[Task[Any]]:
    """Return the class that has the name of its file, in camel case."""
    task: type[Task[Any]] = getattr(
        importlib.import_module(f"{__name__}.{module}"), module.title().replace("_", "")
    )
    return task


def _outside() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group=TASKS)}


def _load(name: str, point: Any) -> Task[Any]:
    source = f"task {name!r} ({point.value})"
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{source} cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Task) and getattr(loaded, "name", "") == name):
        raise ValueError(f"{source} must be a subclass of kdbench.tasks.Task whose `name` is {name!r}")
    task: Task[Any] = loaded()
    return task
