"""Whole runs on made-up images: the record, resuming to the bit after a real kill, and what is refused."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdbench.core.errors import RunError
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.training.run_folder import RunFolder
from tests.helpers.composition import compose_checked

register()

TINY = ["dataset=fake", "dataset.train=96", "schedule=quick", "schedule.batch_size=16", "schedule.epochs=3"]
TINY += ["student=resnet8", "trainer=cpu", "threads=1", "progress=false", "log_every=2"]
ALONE = [*TINY, "teacher=none", "loss=ce"]


def train(*overrides: str, root: str = "train") -> dict:
    choices = dict(item.split("=", 1) for item in overrides)
    return run(make_plan(compose_checked(root, list(overrides)), choices))


def folder_of(output: Path) -> RunFolder:
    (path,) = [path.parent for path in output.glob("*/state.pt")]
    return RunFolder(path)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A teacher with random weights: what it answers does not matter here, that it answers does."""
    path = tmp_path_factory.mktemp("teacher") / "resnet8.safetensors"
    torch.manual_seed(0)
    save_weights(create_model("resnet8", 4), path, {"model": "resnet8", "num_classes": 4})
    return str(path)


@pytest.fixture
def distilled(teacher) -> list[str]:
    return [*TINY, "teacher=resnet8", f"teacher.checkpoint={teacher}", "loss=wttm"]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(folder_of(output).path / "student.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_the_record_tells_how_each_accuracy_was_chosen(tmp_path, distilled):
    record = train(*distilled, f"output={tmp_path}", "dataset.validation=16", "evaluate_every=2")
    stored = folder_of(tmp_path).record()
    assert stored == json.loads(json.dumps(record))
    assert stored["state"] == "done"
    assert [row["epoch"] for row in stored["results"]["curve"]] == [2, 3]
    assert set(stored["results"]) == {"last", "best_on_test", "best_validation", "recall", "curve"}
    assert sum(stored["results"]["recall"]) / 4 == pytest.approx(stored["results"]["last"]["top1"])
    assert (stored["protocol"], stored["groups"]) == ("", {})
    assert set(stored["results"]["last"]) == {"epoch", "top1", "top5", "agreement", "ece", "nll"}
    assert {"recipe", "data", "teacher"} == set(stored["hashes"])
    assert stored["teacher"]["top1"] >= 0
    assert stored["config"]["loss"]["pair"] == "resnet56:resnet20"
    assert stored["threads"] == 1
    assert {"torch", "kdbench"} <= set(stored["versions"])
    rows = folder_of(tmp_path).metrics()
    assert [(row["epoch"], row.get("step")) for row in rows[:4]] == [(1, 2), (1, 4), (1, 5), (1, None)]
    assert {"train/total", "train/ce", "train/wttm", "lr", "images_per_second"} <= set(rows[0])
    assert (folder_of(tmp_path).path / "best_validation.safetensors").is_file()


def test_learning_happens_and_the_same_seed_gives_the_same_weights(tmp_path):
    quick = [*ALONE, "schedule.epochs=8", "schedule.lr=0.05"]
    first = train(*quick, f"output={tmp_path / 'a'}")
    train(*quick, f"output={tmp_path / 'b'}")
    other = train(*quick, f"output={tmp_path / 'c'}", "seed=1")
    assert first["results"]["last"]["top1"] > 60  # chance is 25
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert other["hashes"]["recipe"] != first["hashes"]["recipe"]


def test_how_often_it_logs_evaluates_or_saves_changes_no_weight(tmp_path, distilled):
    train(*distilled, f"output={tmp_path / 'a'}")
    train(*distilled, f"output={tmp_path / 'b'}", "log_every=5", "evaluate_every=3", "save_every=0")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_finished_run_is_kept_unless_overwrite_is_set(tmp_path, capsys):
    train(*ALONE, f"output={tmp_path}")
    written = (folder_of(tmp_path).path / "student.safetensors").stat().st_mtime_ns
    train(*ALONE, f"output={tmp_path}")
    assert "already finished" in capsys.readouterr().out
    assert (folder_of(tmp_path).path / "student.safetensors").stat().st_mtime_ns == written
    train(*ALONE, f"output={tmp_path}", "overwrite=true")
    assert (folder_of(tmp_path).path / "student.safetensors").stat().st_mtime_ns > written


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "kdbench.cli.train", *overrides]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    )


def end_when(process: subprocess.Popen, output: Path, row: str, number: int) -> None:
    """Send a signal as soon as a line of metrics.jsonl begins with `row`."""
    deadline = time.monotonic() + 120
    while not any(row in file.read_text() for file in output.glob("*/metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)


KILLED = """
import os, signal, sys
import kdbench.training.run_folder
where, *sys.argv[1:] = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def at(position, append=kdbench.training.run_folder.RunFolder.append_metrics):
    def appended(folder, row):
        append(folder, row)
        if (row["epoch"], row.get("step")) == position:
            if where == "while-saving":
                os.replace = die
            else:
                die()
    kdbench.training.run_folder.RunFolder.append_metrics = appended
at({"mid-epoch": (2, 3), "epoch-boundary": (3, 1), "while-saving": (2, 4)}[where])
from kdbench.cli.train import main
main()
"""


@pytest.mark.parametrize(
    "where", ["mid-epoch", pytest.param("epoch-boundary", marks=pytest.mark.slow), "while-saving"]
)
def test_killed_and_resumed_run_has_the_same_weights(tmp_path, teacher, where):
    """The network has dropout, whose random state must survive SIGKILL and restart."""
    dropout = ["student=timm", "student.name=timm/test_resnet", "+student.options.drop_rate=0.5"]
    run_ = [*TINY, *dropout, "teacher=resnet8", f"teacher.checkpoint={teacher}", "loss=wttm", "log_every=1"]
    run_ += ["dataset.validation=16"] if where == "epoch-boundary" else ["save_every=0"]
    train(*run_, f"output={tmp_path / 'whole'}")
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, where, *run_, f"output={killed}"]
    ended = subprocess.run(command, capture_output=True, text=True, env=_environment())
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    state = torch.load(folder_of(killed).path / "state.pt", weights_only=True)
    position = state["progress"]["epoch"], state["progress"]["step"]
    assert position == {"mid-epoch": (2, 2), "epoch-boundary": (3, 0), "while-saving": (2, 3)}[where]
    assert not (folder_of(killed).path / "student.safetensors").exists()
    train(*run_, f"output={killed}", "resume=true")
    assert same(weights(tmp_path / "whole"), weights(killed))
    whole, resumed = (folder_of(tmp_path / name) for name in ("whole", "killed"))
    last = [torch.load(folder.path / "state.pt", weights_only=True) for folder in (whole, resumed)]
    for left, right in zip(*(state["optimizer"]["state"].values() for state in last), strict=True):
        assert torch.equal(left["momentum_buffer"], right["momentum_buffer"])
    assert same(last[0]["best"], last[1]["best"])
    untimed = [[{**row, "images_per_second": 0} for row in folder.metrics()] for folder in (whole, resumed)]
    assert untimed[0] == untimed[1]
    assert len(resumed.record()["sessions"]) == 1
    assert not list(killed.rglob("*.tmp"))


def test_interrupted_run_needs_resume_or_overwrite(tmp_path):
    """Ctrl-C stops a run, whose message says how to continue it."""
    process = start(*ALONE, "schedule.epochs=200", f"output={tmp_path}")
    end_when(process, tmp_path, '"epoch": 2, "step": 2', signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "with a checkpoint; the same command with resume=true continues" in errors
    assert "Traceback" not in errors
    assert folder_of(tmp_path).record()["state"] == "interrupted"
    with pytest.raises(ValueError, match="resume=true continues it, overwrite=true starts again"):
        train(*ALONE, "schedule.epochs=200", f"output={tmp_path}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", ['"epoch": 1, "step": 2', '"epoch": 2, "step": 5'], ids=["first", "last-step"]
)
def test_sigterm_stops_cleanly(tmp_path, row):
    """A cluster sends SIGTERM. The last step of an epoch is followed by the evaluation."""
    process = start(*ALONE, "schedule.epochs=200", f"output={tmp_path}", "log_every=1")
    end_when(process, tmp_path, row, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert folder_of(tmp_path).record()["state"] == "interrupted"


@pytest.mark.slow
def test_sigint_ends_a_sweep(tmp_path):
    process = start(
        "-m", *ALONE, "schedule.epochs=200", "seed=0,1", f"output={tmp_path}", "hydra.launcher.jobs=1"
    )
    end_when(process, tmp_path, '"epoch": 2, "step": 2', signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert len(list(tmp_path.glob("*/record.json"))) == 1


def test_non_finite_loss_stops_the_run_and_is_named(tmp_path):
    broken = [*ALONE, "schedule.lr=1e30", "schedule.plan=constant", f"output={tmp_path}"]
    with pytest.raises(RunError, match=r"not finite at epoch 1, step \d+: ce = (nan|inf)"):
        train(*broken)
    (record,) = [json.loads(path.read_text()) for path in tmp_path.glob("*/record.json")]
    assert record["state"] == "failed"
    assert "not finite" in record["reason"]
    assert not list(tmp_path.glob("*/student.safetensors"))


def test_non_finite_weights_are_never_saved(tmp_path):
    """The loss of the only step is finite; what the step does to the weights is not."""
    one = [*ALONE, "schedule.batch_size=96", "schedule.epochs=1", "schedule.lr=1e39", f"output={tmp_path}"]
    with pytest.raises(RunError, match=r"is not finite before epoch 2, step 0; there was no checkpoint yet"):
        train(*one)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".safetensors")]


def test_last_good_checkpoint_survives_a_non_finite_loss(tmp_path, monkeypatch):
    from kdbench.training.schedule import Schedule

    sane = Schedule.lr_at
    monkeypatch.setattr(
        Schedule, "lr_at", lambda self, epoch, *rest: 1e30 if epoch == 2 else sane(self, epoch, *rest)
    )
    with pytest.raises(RunError, match="not finite at epoch 2"):
        train(*ALONE, f"output={tmp_path}")
    state = folder_of(tmp_path).load_state()
    assert state["progress"]["epoch"] == 2
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_full_disk_is_reported_and_leaves_no_partial_file(tmp_path):
    """The kernel refuses files of more than 100 kB; a checkpoint is larger."""
    small = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    command = [sys.executable, "-m", "kdbench.cli.train", *ALONE, f"output={tmp_path}"]
    ended = subprocess.run(command, preexec_fn=small, capture_output=True, text=True, env=_environment())
    assert ended.returncode == 1
    assert "cannot write" in ended.stderr
    assert "state.pt" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert {path.name for path in tmp_path.rglob("*.*")} >= {"record.json", "metrics.jsonl"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".tmp", ".safetensors")]
    assert json.loads(next(tmp_path.rglob("record.json")).read_text())["state"] == "failed"


@pytest.mark.parametrize("precision", ["bf16-teacher", "bf16"])
def test_lower_precision_trains(tmp_path, distilled, precision):
    record = train(*distilled, f"output={tmp_path}", f"precision={precision}", "schedule.epochs=1")
    assert record["state"] == "done"
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path).values())


def test_missing_teacher_message_has_the_command_that_trains_it(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"kdbench train-teacher dataset=fake dataset.classes=4 dataset.size=32 teacher=vgg8 schedule",
    ):
        train(*TINY, "teacher=vgg8", "loss=kd", f"output={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_teacher_with_other_classes_is_refused(tmp_path, teacher):
    with pytest.raises(ValueError, match=r"expects classifier \[5, 64\], the file has \[4, 64\]"):
        train(
            *TINY,
            "dataset.classes=5",
            "teacher=resnet8",
            f"teacher.checkpoint={teacher}",
            "loss=kd",
            f"output={tmp_path}",
        )


def test_unwritable_output_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to the run folder"):
        train(*ALONE, f"output={tmp_path / 'file'}")


def test_teacher_is_trained_stored_and_found_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    few = [
        "dataset=fake",
        "teacher=resnet14",
        "schedule=quick",
        "schedule.epochs=1",
        "progress=false",
        "trainer=cpu",
    ]
    record = train(*few, f"output={tmp_path / 'runs'}", root="train_teacher")
    card = json.loads((tmp_path / "home/teachers/fake4/resnet14.json").read_text())
    assert card["top1"] == record["results"]["last"]["top1"]
    assert {"model", "num_classes", "label_space", "seed", "config", "hashes", "versions", "commit"} <= set(
        card
    )
    distilled = train(*TINY, "teacher=resnet14", "loss=kd", f"output={tmp_path / 'runs'}")
    assert distilled["teacher"]["name"] == "resnet14"
    assert distilled["teacher"]["top1"] == pytest.approx(card["top1"])


def test_stored_teacher_is_replaced_only_with_overwrite(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    few = [
        "dataset=fake",
        "teacher=resnet8",
        "schedule=quick",
        "schedule.epochs=1",
        "progress=false",
        "trainer=cpu",
    ]
    few += [f"output={tmp_path / 'runs'}"]
    train(*few, root="train_teacher")
    stored = tmp_path / "home/teachers/fake4/resnet8.safetensors"
    first = stored.read_bytes()
    with pytest.raises(ValueError, match="overwrite=true replaces it"):
        train(*few, "seed=1", root="train_teacher")
    assert stored.read_bytes() == first
    stored.unlink()
    stored.with_suffix(".json").unlink()
    train(*few, root="train_teacher")
    assert stored.read_bytes() == first, "a finished run puts its teacher back"


def test_sweep_continues_after_a_failure(tmp_path):
    sweep = [
        "-m",
        *ALONE,
        "schedule.epochs=1",
        "schedule.plan=constant",
        "schedule.lr=1e30,0.01",
        f"output={tmp_path}",
    ]
    process = start(*sweep)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "not finite" in said
    states = sorted(json.loads(path.read_text())["state"] for path in tmp_path.glob("*/record.json"))
    assert states == ["done", "failed"]


def test_warning_about_unequal_depths_has_no_source_line(tmp_path, distilled):
    words = ["student=vgg8", "loss=at", "dataset.train=8", "dataset.test=4", "schedule.epochs=1"]
    command = [sys.executable, "-m", "kdbench.cli.train", *distilled, *words, f"output={tmp_path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "kdbench: at: the student has" in said
    assert ".py:" not in said
