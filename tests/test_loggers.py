import os
import subprocess
import sys
import time

import pytest

from kdbench.loggers import why_offline


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_without_a_key_it_is_offline():
    assert why_offline() == "no API key"


def test_with_a_key_and_no_network_it_is_offline_within_three_seconds(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    started = time.monotonic()
    assert "not reached" in why_offline()
    assert time.monotonic() - started < 3.5


def test_a_run_is_logged_offline_and_can_be_looked_at(tmp_path):
    run = [
        sys.executable,
        "-m",
        "kdbench.train",
        "dataset=fake",
        "teacher=none",
        "loss=ce",
        "student=resnet8",
    ]
    run += [
        "schedule=quick",
        "schedule.epochs=2",
        "logger=wandb",
        f"output={tmp_path / 'runs'}",
        "trainer=cpu",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "W&B offline (no API key)" in ended.stdout
    (log,) = tmp_path.glob("runs/*/wandb/offline-run-*/run-*.wandb")
    leet = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log.parent)]
    seen = subprocess.run(leet, capture_output=True, text=True, timeout=60)
    assert "test/top1" in seen.stdout, seen.stderr
