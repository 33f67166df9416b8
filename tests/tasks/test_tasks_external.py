"""A task of another package, `tests/helpers/outside/multilabel`: one file of each kind, none of them in kdbench."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdbench.config.build import allowed_targets
from kdbench.config.compose import compose_checked
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import Plan, make_plan
from kdbench.tasks import Capability, available, get, task_of_record, tasks_for

OUTSIDE = Path(__file__).parents[1] / "helpers" / "outside"
SHORT = ["schedule=quick", "schedule.epochs=2", "schedule.batch_size=16", "trainer=cpu"]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package, in this process and in those that it starts, with a store of its own."""
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(OUTSIDE), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    register()
    allowed_targets.cache_clear()
    yield
    allowed_targets.cache_clear()
    get.cache_clear()


def plan(root: str, *words: str) -> Plan:
    overrides = ["dataset=multilabel", "progress=false", *SHORT, *words]
    return make_plan(compose_checked(root, overrides), {"dataset": "multilabel", "loss": "kd"})


def kdbench(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "kdbench", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_entry_point_registers_the_task():
    assert [task.name for task in available()][-1] == "multilabel"
    assert task_of_record({"task": "multilabel"}).title == "F1"


def test_teacher_and_student_train_and_their_records_name_the_task():
    teacher = run(plan("train_teacher", "teacher=resnet8"))
    student = run(plan("train", "teacher=resnet8", "student=resnet8", "loss=kd"))
    assert [record["task"] for record in (teacher, student)] == ["multilabel", "multilabel"]
    assert student["teacher"]["f1"] == teacher["results"]["last"]["f1"]
    last = student["results"]["last"]
    assert {"f1", "nll", "agreement"} < last.keys()
    assert 0 < last["f1"] <= 100
    assert student["results"]["best_on_test"]["f1"] >= last["f1"]
    assert student["images_per_second"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=at"], "the task of multilabel is multilabel, and at is for images"),
        (["loss=mlkd"], "mlkd is for images"),
        (
            ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"],
            "task=multilabel supports a single device only",
        ),
        (["loss=kd", "teacher.cache=require"], "the answers of task=multilabel are not stored"),
        (["loss=kd", "cuda_graph=true"], "the steps of task=multilabel are not recorded"),
        (["loss=kd", "teacher.top_k=2"], "that is for students of language models"),
    ],
)
def test_unsupported_settings_are_refused_with_the_reason(words, message):
    with pytest.raises(ValueError, match=message):
        plan("train", "teacher=resnet8", "student=resnet8", *words)


def test_row_wise_objectives_serve_the_task():
    from kdbench.objectives import objective_class

    assert "multilabel" in tasks_for(objective_class("kd"))
    assert "multilabel" not in tasks_for(objective_class("crd"))
    assert get("multilabel").why_not(Capability.COHORTS) is None


@pytest.mark.slow
def test_table_trains_the_teacher_and_the_students_and_is_reported():
    teacher = f"teacher_overrides={','.join(SHORT)}"
    grid = ["pairs=resnet8:resnet8", "losses=ce,kd", "seeds=0", "jobs=1", teacher]
    printed = kdbench("table", "demo", *grid, "dataset=multilabel", "teacher.checkpoint=null", *SHORT)
    assert "last F1 %" in printed
    assert "2 done, 0 failed" in printed
    lines = Path("runs/tables/demo/results.jsonl").read_text().splitlines()[1:]
    assert {json.loads(line)["task"] for line in lines} == {"multilabel"}
    page = kdbench("report", "runs", "--formats=md", "--print")
    assert "last F1 %" in page
    assert "| resnet8 -> resnet8 | kd |" in page
