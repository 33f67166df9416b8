"""Hydra's launchers and its search: each with the command line of docs/sweeps.md, on made-up images."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.hydra_setup import register
from kdbench.runs.search import check_search, is_search

register()

TINY = ["dataset=fake", "dataset.train=96", "schedule=quick", "schedule.batch_size=16", "schedule.epochs=2"]
TINY += ["teacher=resnet20", "student=resnet8", "trainer=cpu", "log_every=3", "save_every=0"]


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("teacher") / "resnet20.safetensors"
    torch.manual_seed(0)
    save_weights(create_model("resnet20", 4), path, {"model": "resnet20", "num_classes": 4})
    return [*TINY, f"teacher.checkpoint={path}"]


def start(*words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "kdbench", "train", "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def records(output: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(output.glob("*/record.json"))]


def test_a_search_is_refused_where_it_would_be_judged_on_test(common):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra `optuna` is not installed")
    words = ["-m", "hparams=wttm", *common]
    assert is_search(words)
    with pytest.raises(ValueError, match=r"never on test.*dataset\.validation=N"):
        check_search("train", words)
    more = ["dataset.validation=16", "output=here", "loss.weights.wttm=interval(1, 2)"]
    found = Path("here/.sweep/optimization_results.yaml"), "top-1"
    assert check_search("train", [*words, *more]) == found
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        check_search("train", [*words, "dataset.validaton=16"])


def test_what_is_a_search():
    assert is_search(["-m", "hydra/sweeper=optuna", "loss=kd"])
    assert not is_search(["hparams=wttm"]), "a trial, in a process of its own"
    assert not is_search(["-m", "loss=kd,ce", "hparams=null"])


@pytest.mark.slow
def test_each_job_is_a_process_and_one_that_fails_is_named(tmp_path, common):
    rates = ["schedule.lr=0.05,1e30", "hydra.launcher.retries=0", "hydra.launcher.jobs=2"]
    process = start(*common, "loss=kd", *rates, f"output={tmp_path}")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "2 jobs, 2 at a time" in said
    assert "failed in" in said
    assert "the loss is not finite at epoch 1" in said
    assert "Traceback" not in said
    assert {record["state"] for record in records(tmp_path)} == {"done", "failed"}


@pytest.mark.slow
def test_a_search_ends_with_the_best_values_and_goes_on_where_it_was(tmp_path, common):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra `optuna` is not installed")
    words = [
        *common,
        "hparams=wttm",
        "dataset.validation=16",
        "hydra.sweeper.n_trials=2",
        f"output={tmp_path}",
    ]
    said, _ = (process := start(*words)).communicate(timeout=300)
    assert process.returncode == 0, said
    found = records(tmp_path)
    assert len(found) == 2
    best = max(record["results"]["curve"][-1]["validation/top1"] for record in found)
    assert f"best on the validation part, {best:.2f} % top-1" in said
    started = [record["started"] for record in found]
    said, _ = (process := start(*words)).communicate(timeout=300)
    assert process.returncode == 0, said
    assert [record["started"] for record in records(tmp_path)] == started, "the same trials, found finished"


def jobs_of_submitit() -> list[tuple[int, bytes]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"submitit.core._submit" in words:
            found.append((int(folder.name), words))
    return found


@pytest.mark.slow
def test_a_job_of_submitit_that_is_queued_again_goes_on_at_its_checkpoint(tmp_path, common):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra `slurm` is not installed")
    words = [
        "hydra/launcher=submitit_local",
        "resume=true",
        "loss=kd",
        "schedule.epochs=20",
        f"output={tmp_path}",
    ]
    process = start(*common, *words)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("*/state.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (job,) = (number for number, words in jobs_of_submitit() if str(tmp_path).encode() in words)
    os.kill(job, signal.SIGUSR2)  # as SLURM does before the time is over
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    (record,) = records(tmp_path)
    assert record["state"] == "done"
    assert [session["state"] for session in record["sessions"]] == ["interrupted"]
