import json
import os
import re
import subprocess
import sys
import time
from unittest.mock import MagicMock

import pytest

from kdbench.cli.wandb import dashboard, main, waiting_runs
from kdbench.training import loggers
from kdbench.training.loggers import SENT, WeightsAndBiases, close, why_offline
from kdbench.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "HTTPS_PROXY", "https_proxy"):
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


def run(tmp_path, *more: str) -> subprocess.CompletedProcess:
    words = [
        sys.executable,
        "-m",
        "kdbench.cli.train",
        "dataset=fake",
        "teacher=none",
        "loss=ce",
        "student=resnet8",
    ]
    words += ["schedule=quick", "schedule.epochs=2", f"output={tmp_path / 'runs'}", "trainer=cpu", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended


def test_a_run_is_logged_offline_and_can_be_looked_at_and_waits_for_its_upload(tmp_path, capsys):
    ended = run(tmp_path, "logger=wandb", "table_name=mine")
    assert "W&B offline (no API key)" in ended.stdout
    (log,) = tmp_path.glob("runs/*/wandb/offline-run-*/run-*.wandb")
    leet = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log.parent)]
    seen = subprocess.run(leet, capture_output=True, text=True, timeout=60)
    record = json.loads(next(tmp_path.glob("runs/*/record.json")).read_text())
    (top1,) = re.findall(r'"last/top1": *"?([0-9.]+)', seen.stdout)
    assert float(top1) == record["results"]["last"]["top1"]
    assert list(log.parent.glob("files/media/table/recall_*.table.json"))
    (counted,) = log.parent.glob("files/media/table/confusion_*.table.json")
    cells = json.loads(counted.read_text())["data"]
    images = sum(count for *_, count in cells)
    hits = sum(count for label, guess, count in cells if label == guess)
    assert 100 * hits / images == pytest.approx(record["results"]["last"]["top1"], abs=1e-3)
    assert waiting_runs(tmp_path / "runs") == [log.parent]
    assert main(["sync", "mine", "--output", str(tmp_path / "runs")]) == 1
    assert "not uploaded: no API key" in capsys.readouterr().err
    log.with_name(log.name + ".synced").touch()
    assert waiting_runs(tmp_path / "runs") == []
    assert main(["sync", "nothing"]) == 2


def test_what_wandb_is_told(monkeypatch, tmp_path):
    told = {}
    monkeypatch.setattr("wandb.init", lambda **given: told.update(given) or MagicMock())
    config = {"loss": {"weights": {"ce": 0.1}}, "seed": 3}
    WeightsAndBiases("p", tmp_path, "name", "g" * 200, 3, ["t" * 70], config)
    assert told["mode"] == "offline"
    assert told["job_type"] == "seed 3"
    assert told["config"] == {"loss.weights.ce": 0.1, "seed": 3}
    assert (len(told["group"]), len(told["tags"][0])) == (128, 64)
    first = told["id"]
    WeightsAndBiases("p", tmp_path, "name", "g", 3, [], {})
    assert told["id"] == first, "a resumed run goes on in the same one"


def test_a_dashboard_compares_the_losses_of_one_table():
    pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")
    page = dashboard("demo", "me", "kdbench")
    assert next(section.name for section in page.sections) == "Losses compared"
    spec = page._to_model().spec.model_dump_json()
    assert "last/top1" in spec
    assert '"demo"' in spec
    spec = dashboard("cot-tiny", "me", "kdbench")._to_model().spec.model_dump_json()
    assert "last/accuracy" in spec
    assert "top1" not in spec


def test_a_run_is_written_for_tensorboard(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here"
    )
    run(tmp_path, "logger=tensorboard")
    (file,) = tmp_path.glob("runs/*/tensorboard/events.*")
    events = accumulator.EventAccumulator(str(file))
    events.Reload()
    record = json.loads(next(tmp_path.glob("runs/*/record.json")).read_text())
    assert events.Scalars("test/top1")[-1].value == pytest.approx(record["results"]["last"]["top1"])
    assert "last/top1" in str(events.Tensors("summary/text_summary")[0])


def broken_off(folder, name: str):
    """What an online W&B run leaves where it was killed."""
    place = folder / "runs" / name / "wandb" / f"run-2026-{name}"
    place.mkdir(parents=True)
    (place / f"run-{name}.wandb").touch()
    return place


def test_online_runs_that_were_broken_off_wait_too_but_not_those_at_work(tmp_path):
    killed, sent, working = (broken_off(tmp_path, name) for name in ("killed", "sent", "working"))
    (sent / SENT).touch()
    at_work = RunFolder(working.parents[1])
    at_work.open()
    assert waiting_runs(tmp_path / "runs") == [killed]
    at_work.close()
    assert waiting_runs(tmp_path / "runs") == [killed, working]


def test_who_does_not_answer_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "https://nobody.invalid")
    monkeypatch.setattr(loggers, "_why_unreachable", lambda *address: asked.append(address) or "not reached")
    assert [why_offline(), why_offline()] == ["not reached"] * 2
    assert asked == [("nobody.invalid", 443, 2.0)]


def test_behind_a_proxy_it_is_the_proxy_that_must_answer(monkeypatch):
    asked = []
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setattr(loggers, "_why_unreachable", lambda *address: asked.append(address))
    assert why_offline() is None
    assert asked == [("proxy.invalid", 3128, 2.0)]


def test_a_run_that_sent_everything_is_marked(monkeypatch, tmp_path):
    place = tmp_path / "wandb" / "run-1"
    (place / "files").mkdir(parents=True)
    monkeypatch.setattr("wandb.init", lambda **given: MagicMock(dir=str(place / "files")))
    for offline in (True, False):
        close([None, WeightsAndBiases("p", tmp_path, "name", "g", 3, [], {}, offline=offline)])
        assert (place / SENT).is_file() is not offline
