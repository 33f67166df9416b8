"""Cohorts: several students share one teacher call per batch, with the results of single runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdbench.core.errors import RunError
from kdbench.runs.cohort import cohorts
from kdbench.runs.execute import run, run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import Plan, make_plan
from kdbench.runs.prepare import PreparedRun
from kdbench.teachers.live import LiveTeacher
from kdbench.training.run_folder import RunFolder
from kdbench.training.student_run import StudentRun
from tests.helpers.composition import compose_checked
from tests.helpers.random_teacher import random_teacher

register()

TINY = ["dataset=fake", "dataset.train=96", "schedule=quick", "schedule.batch_size=16", "schedule.epochs=2"]
TINY += ["teacher=resnet20", "trainer=cpu", "threads=1", "progress=false", "log_every=3"]
TINY += ["schedule.nesterov=false", "schedule.lr='${by_network:0.05,{resnet14:0.02}}'"]
DROPOUT = ["student=timm", "student.name=timm/test_resnet", "+student.options.drop_rate=0.5"]
MEMBERS = {
    "ce": ["loss=ce", "student=resnet8"],
    "wttm": ["loss=wttm", "loss.dot=0.05", *DROPOUT],
    "crd": ["loss=crd", "student=resnet14"],
    "mlkd": ["loss=mlkd", "student=resnet8"],
}
STEPS = 2 * 6
"""Of a whole run."""


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> list[str]:
    """Return the shared overrides; random teacher weights are sufficient here."""
    return [*TINY, random_teacher(tmp_path_factory.mktemp("teacher"), "resnet20")]


def plan(*overrides: str) -> Plan:
    choices = dict(item.split("=", 1) for item in overrides)
    return make_plan(compose_checked("train", list(overrides)), choices)


def together(*runs: list[str]) -> list[PreparedRun]:
    (group,) = cohorts([plan(*overrides) for overrides in runs])
    return run_cohort(group)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, common) -> Path:
    """Train every member as a single run and return the output folder."""
    output = tmp_path_factory.mktemp("alone")
    for member in MEMBERS.values():
        run(plan(*common, *member, f"output={output}"))
    return output


def folders(output: Path) -> dict[str, RunFolder]:
    return {path.parent.name: RunFolder(path.parent) for path in sorted(output.glob("*/record.json"))}


TIMES = ("seconds", "images_per_second", "started", "cohort", "sessions")


def untimed(value):
    """Return a record without the values that may differ between two executions of one run."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in (*TIMES, "output", "resume")}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def assert_equal(left, right, where: str) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            if key not in TIMES and key != "metrics_bytes":
                assert_equal(left[key], right[key], f"{where} {key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for number, pair in enumerate(zip(left, right, strict=True)):
            assert_equal(*pair, f"{where} {number}")
    else:
        assert left == right, where


def assert_as_alone(output: Path, alone: Path) -> None:
    found, expected = folders(output), folders(alone)
    assert found.keys() == expected.keys()
    for name, folder in found.items():
        assert_equal(expected[name].load_state(), folder.load_state(), name)
        assert untimed(expected[name].metrics()) == untimed(folder.metrics()), name
        assert untimed(expected[name].record()) == untimed(folder.record()), name
        files = [{path.name for path in one.path.iterdir()} for one in (expected[name], folder)]
        assert files[0] == files[1]


@pytest.fixture
def steps(monkeypatch) -> dict[str, int]:
    """Count the optimiser steps of each run during the test."""
    taken: dict[str, int] = {}
    record_steps = StudentRun.record_steps

    def count(run, rows, steps_per_epoch):
        taken[run.folder.path.name] = taken.get(run.folder.path.name, 0) + len(rows.steps)
        record_steps(run, rows, steps_per_epoch)

    monkeypatch.setattr(StudentRun, "record_steps", count)
    return taken


class KillError(Exception):
    """Stands for a kill."""


def killed_at(monkeypatch, epoch: int, step: int, runs: list[list[str]]) -> None:
    append = RunFolder.append_metrics

    def die(folder, row):
        if (row["epoch"], row.get("step")) == (epoch, step):
            raise KillError
        append(folder, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", die)
        with pytest.raises(KillError):
            together(*runs)


def test_cohort_gives_the_same_results_as_single_runs(tmp_path, common, alone, steps, monkeypatch):
    asked = []
    forward = LiveTeacher.forward
    monkeypatch.setattr(
        LiveTeacher,
        "forward",
        lambda self, batch, features=(): asked.append(batch) or forward(self, batch, features),
    )
    members = together(*([*common, *member, f"output={tmp_path}"] for member in MEMBERS.values()))
    assert_as_alone(tmp_path, alone)
    assert set(steps.values()) == {STEPS}
    assert len([batch for batch in asked if batch.views]) == STEPS, "one teacher call per batch"
    assert len({member.folder.metrics()[0]["lr"] for member in members}) == 2
    names = [member.name for member in members]
    assert all(member.record["cohort"] == names for member in members)
    assert all(folder.record()["cohort"] is None for folder in folders(alone).values())


def test_shared_time_is_divided_among_members(tmp_path, common):
    started = time.perf_counter()
    runs = [[*common, "loss=kd", f"student={name}", f"output={tmp_path}"] for name in ("resnet8", "resnet20")]
    small, large = (member.record for member in together(*runs))
    assert 0 < small["seconds"] < large["seconds"]
    assert small["seconds"] + large["seconds"] < time.perf_counter() - started
    assert small["images_per_second"] == pytest.approx(2 * 96 / small["seconds"])


@pytest.mark.parametrize("position", [(1, 3), (2, 3)])
def test_resumed_cohort_has_the_same_weights(tmp_path, common, alone, monkeypatch, position):
    runs = [[*common, *member, f"output={tmp_path}", "save_every=0"] for member in MEMBERS.values()]
    killed_at(monkeypatch, *position, runs)
    together(*([*overrides, "resume=true", "save_every=300"] for overrides in runs))
    assert_as_alone(tmp_path, alone)


def test_bfloat16_members_equal_single_runs(tmp_path, common, monkeypatch):
    """The cohort is killed in the middle of an epoch and resumed."""
    chosen = [[*common, *MEMBERS[name], "precision=bf16"] for name in ("crd", "wttm")]
    for one in chosen:
        run(plan(*one, f"output={tmp_path / 'alone'}"))
    runs = [[*one, f"output={tmp_path / 'together'}", "save_every=0"] for one in chosen]
    killed_at(monkeypatch, 2, 3, runs)
    together(*([*overrides, "resume=true", "save_every=300"] for overrides in runs))
    assert_as_alone(tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
def test_members_at_different_positions_synchronise(tmp_path, common, alone, monkeypatch, steps):
    ce, wttm, crd, mlkd = ([*common, *member, f"output={tmp_path}"] for member in MEMBERS.values())
    killed_at(monkeypatch, 2, 3, [[*wttm, "save_every=0"]])  # stands at epoch 2, step 0
    killed_at(monkeypatch, 1, 6, [[*mlkd, "save_every=0"]])  # stands at epoch 1, step 3
    (finished,) = [folder for name, folder in folders(alone).items() if "-ce-" in name]
    shutil.copytree(finished.path, tmp_path / finished.path.name)
    steps.clear()
    together(*([*overrides, "resume=true"] for overrides in (ce, wttm, crd, mlkd)))
    assert_as_alone(tmp_path, alone)
    taken = {name.split("-")[3]: number for name, number in steps.items()}
    assert taken == {"wttm": 6, "crd": 12, "mlkd": 9}


def test_advanced_member_continues_when_the_others_fail(tmp_path, common, alone, monkeypatch):
    second = [*common, *MEMBERS["crd"], f"output={tmp_path}"]
    killed_at(monkeypatch, 2, 3, [[*second, "save_every=0"]])
    broken = [*common, "loss=ce", "student=resnet8", f"output={tmp_path}", "schedule.lr=1e30"]
    failed, done = together([*broken, "resume=true"], [*second, "resume=true"])
    assert isinstance(failed.error, RunError)
    assert done.error is None
    shutil.rmtree(failed.folder.path)
    crd = tmp_path / "crd"
    (expected,) = [folder for name, folder in folders(alone).items() if "-crd-" in name]
    shutil.copytree(expected.path, crd / expected.path.name)
    assert_as_alone(tmp_path, crd)


def test_member_that_cannot_be_built_does_not_stop_the_others(tmp_path, common):
    runs = [["loss=fsp", "student=resnet8x4"], ["loss=ce", "student=resnet8"]]
    refused, done = together(*([*common, *member, f"output={tmp_path}"] for member in runs))
    assert "same width" in str(refused.error)
    assert done.record["state"] == "done"
    assert done.record["cohort"] is None
    with pytest.raises(ValueError, match="same width"):
        run(refused.plan)


def test_runs_are_grouped_by_what_they_share():
    def grouped(*runs: str) -> list[list[str]]:
        plans = [plan(*TINY, *overrides.split()) for overrides in runs]
        numbers = {id(one): number for number, one in enumerate(plans)}
        return [[numbers[id(one)] for one in group] for group in cohorts(plans)]

    base = "loss=kd student=resnet8"
    assert grouped(base, "loss=ce student=resnet14 schedule.lr=1 tags=[a] output=elsewhere") == [[0, 1]]
    others = ["seed=1", "schedule.batch_size=8", "precision=bf16", "dataset.train=64", "teacher=resnet14"]
    others += ["save_every=1", "schedule.weight_decay=0", "trainer.max_epochs=1", "log_every=4", "threads=2"]
    assert grouped(base, *(f"{base} {other}" for other in others)) == [[n] for n in range(len(others) + 1)]
    assert grouped(base, "loss=kd student=resnet8", "loss=ce student=resnet8") == [[0, 2], [1]], "one folder"


def test_first_stages_run_first_and_are_shared(tmp_path, common, monkeypatch):
    """All students share the first stage of ft; ab has one per student, trained in one cohort."""
    # a random teacher's maps are large: a small learning rate
    few = ["loss.stage.epochs=1", "schedule.epochs=1", "schedule.lr=0.001"]
    losses = [f"loss={loss}" for loss in ("ft", "ab")]
    runs = [[*common, *few, loss, f"student={name}"] for loss in losses for name in ("resnet8", "resnet14")]
    scored = []
    monkeypatch.setattr("kdbench.runs.execute.evaluate", lambda *_: scored.append(1))
    for overrides in runs:
        run(plan(*overrides, f"output={tmp_path / 'alone'}"))
    assert not scored, "the teacher's scores are no part of a first stage"
    together(*([*overrides, f"output={tmp_path / 'cohort'}"] for overrides in runs))
    assert_as_alone(tmp_path / "cohort", tmp_path / "alone")
    stages = [record for _, record in _records(tmp_path / "cohort") if record["is_stage"]]
    assert sorted(record["names"]["loss"] for record in stages) == ["ab.stage", "ab.stage", "ft.stage"]
    assert all(len(record["cohort"]) == 3 for record in stages)


def _records(output: Path) -> list[tuple[str, dict]]:
    return [(name, folder.record()) for name, folder in folders(output).items()]


def start(*overrides: str, code: str = "", cwd: Path | None = None) -> subprocess.Popen:
    entry = ["-c", code] if code else ["-m", "kdbench.cli.train"]
    command = [sys.executable, *entry, "-m", *overrides, "hydra/launcher=cohort"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
    )


def test_failed_member_is_reported_and_the_others_finish(tmp_path, common):
    rates = "schedule.lr='${by_network:0.05,{resnet14:1e30}}'"
    process = start(*common, "loss=ce,kd", "student=resnet8,resnet14", rates, f"output={tmp_path}")
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in errors
    records = _records(tmp_path)
    assert {(record["names"]["student"], record["state"]) for _, record in records} == {
        ("resnet8", "done"),
        ("resnet14", "failed"),
    }
    for name, record in records:
        assert len(record["cohort"]) == 4
        if record["state"] == "failed":
            assert "not finite at epoch 1" in record["reason"]
            assert f"kdbench: {name}: {record['reason']}" in errors
        else:
            assert f"{name}: test top-1" in printed


DIES = """
import os, signal
from kdbench.training.run_folder import RunFolder
save = RunFolder.save_state
saved = []
def die_after_the_fifth(folder, state):
    save(folder, state)
    saved.append(folder)
    if len(saved) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
RunFolder.save_state = die_after_the_fifth
from kdbench.cli.train import main
main()
"""


def test_cohort_killed_between_two_checkpoints_resumes_to_the_bit(tmp_path, common):
    """The process of the command is killed; its members are then at different positions."""
    losses = ("kd", "crd")
    overrides = [*common, "student=resnet8", "save_every=0"]
    for loss in losses:
        run(plan(*overrides, f"loss={loss}", f"output={tmp_path / 'alone'}"))
    killed = start(*overrides, f"loss={','.join(losses)}", f"output={tmp_path / 'cohort'}", code=DIES)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    states = [folder.load_state()["progress"] for folder in folders(tmp_path / "cohort").values()]
    assert {(state["epoch"], state["step"]) for state in states} == {(2, 0), (2, 3)}
    together(
        *([*overrides, f"loss={loss}", f"output={tmp_path / 'cohort'}", "resume=true"] for loss in losses)
    )
    assert_as_alone(tmp_path / "cohort", tmp_path / "alone")


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_signal_stops_all_members_with_checkpoints(tmp_path, common, number, code):
    sweep = [*common, "loss=ce,kd", "student=resnet8", "schedule.epochs=200", "seed=0,1"]
    process = start(*sweep, f"output={tmp_path}")
    deadline = time.monotonic() + 120
    while not any('"epoch": 2, "step": 3' in file.read_text() for file in tmp_path.glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "with a checkpoint; the same command with resume=true continues" in errors
    records = _records(tmp_path)
    assert [record["state"] for _, record in records] == ["interrupted"] * 2, "and no further cohort began"
    states = [folder.load_state()["progress"] for folder in folders(tmp_path).values()]
    assert len({(state["epoch"], state["step"]) for state in states}) == 1


@pytest.mark.slow
def test_each_member_has_its_own_wandb_run(tmp_path, common):
    sweep = [*common, "loss=ce,kd", "student=resnet8", "logger=wandb", f"output={tmp_path}"]
    process = start(*sweep, cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for loss, others in (("ce", "train/kd"), ("kd", "train/ctkd")):
        (log,) = tmp_path.glob(f"*-{loss}-*/wandb/offline-run-*/run-*.wandb")
        leet = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log.parent)]
        seen = subprocess.run(leet, capture_output=True, text=True, timeout=60).stdout
        (curve,) = [record["results"]["curve"] for name, record in _records(tmp_path) if f"-{loss}-" in name]
        assert json.dumps(curve[-1]["train/total"]) in seen
        assert others not in seen


def test_overwriting_run_resumes_with_the_same_command(tmp_path, common, alone, monkeypatch, steps):
    """As the message of an interrupted run says; a finished run starts again."""
    ce = [*common, *MEMBERS["ce"], f"output={tmp_path}", "overwrite=true"]
    together(ce)
    killed_at(monkeypatch, 2, 3, [[*ce, "save_every=0"]])  # stands at epoch 2, step 0
    for expected in (STEPS // 2, STEPS):
        steps.clear()
        together([*ce, "resume=true"])
        assert list(steps.values()) == [expected]
    ((name, folder),) = folders(tmp_path).items()
    assert_equal(folders(alone)[name].load_state(), folder.load_state(), name)
