"""The registry of tasks and what each supports."""

import subprocess
import sys

import pytest

from kdbench.objectives import objective_class
from kdbench.tasks import Capability, available, get, record_entry, task_of_record, tasks_for

MISSING = {
    "images": {"TOP_K_TEACHERS", "POLICIES"},
    "instructions": {"DDP", "CUDA_GRAPHS", "INSTRUMENTS", "EXPORT"},
    "lm": {"DDP", "CUDA_GRAPHS", "INSTRUMENTS", "EXPORT"},
    "rationale": {item.name for item in Capability} - {"COHORTS", "EXTRA_VIEWS"},
}


def test_available_lists_the_tasks_of_the_folder():
    assert [task.name for task in available()] == list(MISSING)


@pytest.mark.parametrize("name", MISSING)
def test_missing_capabilities_have_a_reason(name):
    task = get(name)
    reasons = {item.name: task.why_not(item) for item in Capability}
    assert {item for item, reason in reasons.items() if reason} == MISSING[name]
    assert not any("{" in reason for reason in reasons.values() if reason)


def test_reasons_name_the_task_that_was_asked():
    assert get("instructions").why_not(Capability.DDP) == "task=instructions supports a single device only"


def test_unknown_name_lists_the_possible_ones():
    with pytest.raises(
        ValueError, match="unknown task 'audio'; possible: images, instructions, lm, rationale"
    ):
        get("audio")


def test_record_without_a_task_is_of_images():
    assert task_of_record({}) is get("images")
    for task in available():
        assert task_of_record(record_entry(task)) is task


@pytest.mark.parametrize(
    ("objective", "names"),
    [
        ("kd", ["images", "lm"]),
        ("crd", ["images"]),
        ("mcmi", ["images"]),
        ("cot_mi", ["rationale"]),
    ],
)
def test_objectives_serve_tasks_by_what_they_read(objective, names):
    assert tasks_for(objective_class(objective)) == names
    assert get("instructions").accepts(objective_class(objective)) == ("lm" in names)


def test_titles_of_tasks_are_read_without_torch():
    code = (
        "import sys; from kdbench.tasks import available; print(available()[0].title, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["top-1", "False"]
