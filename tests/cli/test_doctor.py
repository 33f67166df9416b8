"""`kdbench doctor` reports the installation, data and teachers."""

import json

import torch

from kdbench.cli import doctor
from kdbench.models.registry import create_model
from kdbench.teachers.store import put


def test_doctor_reports_data_teachers_and_versions(tmp_path, monkeypatch, capsys):
    for name in ("cifar100", "dss"):
        (tmp_path / "data" / name).mkdir(parents=True)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    put(create_model("resnet8", 4), "fake", "resnet8@mine", {"model": "resnet8", "teacher": "resnet8@mine"})
    threads = torch.get_num_threads()
    assert doctor.main(["--json"]) == 0
    assert torch.get_num_threads() == threads
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["found"] == ["cifar100", "dss"]
    assert found["home"]["teachers"] == ["resnet20", "resnet8@mine"]
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["extras"]["text"] == []
    assert all(value > 0 for value in found["step"]["ms"].values())


def test_doctor_prints_short_lines(monkeypatch, capsys):
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    monkeypatch.setattr(doctor, "_timed", lambda *_: 1.0)
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("data      KDBENCH_DATA is not set") for line in lines)
    assert all(len(line) < 160 for line in lines if not line.startswith("store"))


def test_failing_step_is_reported(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no kernel\nof that kind")

    monkeypatch.setattr(doctor, "_timed", broken)
    assert doctor.main([]) == 1
    assert "a training step fails: no kernel" in capsys.readouterr().out
