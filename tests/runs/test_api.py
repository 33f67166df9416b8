"""The Python API of runs: `kdbench.train`, `kdbench.report`, `kdbench.load`."""

import subprocess
import sys

import pytest
import torch

import kdbench
from kdbench.data.sources.cifar100_mini import load_mini
from kdbench.runs.api import command_line

SMALL = {"schedule": "quick", "schedule.epochs": 1, "trainer": "cpu", "threads": 1, "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> kdbench.Run:
    return kdbench.train(
        dataset="cifar100_mini",
        teacher="resnet20",
        student="resnet8",
        loss="wttm",
        seed=1,
        output=str(tmp_path_factory.mktemp("runs")),
        **SMALL,
    )


def test_a_run_has_a_folder_a_record_and_results(run):
    assert (run.folder / "record.json").is_file()
    assert run.record["names"] == {
        "dataset": "cifar100_mini",
        "loss": "wttm",
        "teacher": "resnet20",
        "student": "resnet8",
    }
    assert run.results["last"]["epoch"] == 1
    assert run.folder.name.startswith("cifar100_mini-resnet20-resnet8-wttm-s1-")


@pytest.mark.slow
def test_it_is_the_run_of_the_command(run, tmp_path):
    options = ["dataset=cifar100_mini", "teacher=resnet20", "student=resnet8", "loss=wttm", "seed=1"]
    small = [f"{key}={str(value).lower()}" for key, value in SMALL.items()]
    command = [sys.executable, "-m", "kdbench.cli.train", *options, *small, f"output={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True)
    (folder,) = tmp_path.glob("*-s1-*")
    assert folder.name == run.folder.name
    assert (folder / "student.safetensors").read_bytes() == (run.folder / "student.safetensors").read_bytes()


def test_a_finished_run_is_returned_again(run, capsys):
    again = kdbench.train(
        dataset="cifar100_mini",
        teacher="resnet20",
        student="resnet8",
        loss="wttm",
        seed=1,
        output=str(run.folder.parent),
        **SMALL,
    )
    assert "already finished" in capsys.readouterr().out
    assert again.results == run.results


def test_a_run_is_loaded_with_its_accuracy(run):
    model = kdbench.load(run.folder)
    assert not model.training
    config, test = run.record["config"]["dataset"], load_mini().test
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        predicted = model((test.images / 255 - mean) / std).argmax(1)
    accuracy = 100 * (predicted == test.labels).float().mean().item()
    assert accuracy == pytest.approx(run.results["last"]["top1"], abs=0.11)


def test_runs_are_reported_in_a_frame(run):
    frame = kdbench.report(str(run.folder.parent))
    (row,) = frame.to_dict("records")
    assert (row["loss"], row["seed"], row["last_top1"]) == ("wttm", 1, run.results["last"]["top1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "wtm"}, "wttm"),
        ({"epochs": 3}, "schedule.epochs"),
        ({"schedule": {"epochs": "many"}}, "schedule.epochs"),
        ({"teacher": "resnet21"}, "resnet2"),
    ],
)
def test_mistakes_raise_the_message_of_the_command(options, message):
    with pytest.raises(ValueError, match=message):
        kdbench.train(**{"dataset": "cifar100_mini", "student": "resnet8", **options})


def test_a_run_that_fails_raises(tmp_path):
    diverging = {
        "schedule.lr": 1e30,
        "schedule.plan": "constant",
        "schedule.batch_size": 16,
        "dataset.train": 96,
    }
    with pytest.raises(kdbench.RunError, match="not finite"):
        kdbench.train(
            dataset="fake",
            teacher="none",
            student="resnet8",
            loss="ce",
            output=str(tmp_path),
            **SMALL,
            **diverging,
        )


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"it has no record\.json"):
        kdbench.load(tmp_path)


def test_options_become_overrides():
    options = {
        "loss": "kd",
        "loss.weights.ce": 0.5,
        "schedule": {"milestones": [1, 2], "clip": None},
        "tags": ["a b"],
    }
    assert command_line(options) == [
        "loss=kd",
        "loss.weights.ce=0.5",
        "schedule.milestones=[1,2]",
        "schedule.clip=null",
        "tags=['a b']",
    ]


def test_importing_the_package_is_cheap():
    code = (
        "import time; start = time.perf_counter(); import kdbench, sys; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    seconds = []
    for _ in range(3):
        printed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        elapsed, torch_is_loaded = printed.split()
        assert torch_is_loaded == "False"
        seconds.append(float(elapsed))
    assert min(seconds) < 0.1


def test_every_public_name_is_there_and_listed():
    assert set(kdbench.__all__) <= set(dir(kdbench))
    for name in kdbench.__all__:
        assert getattr(kdbench, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'distill'"):
        _ = kdbench.distill
