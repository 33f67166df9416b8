"""Exported models are read by timm and onnxruntime and have the accuracy of their run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

from kdbench.cli import evaluate
from kdbench.cli.export import export, main
from kdbench.models.registry import create_model
from kdbench.runs.execute import run as train
from kdbench.runs.plan import make_plan
from tests.helpers.composition import compose_checked


def finished_run(folder: Path, *more: str) -> Path:
    """Train a run of one epoch and return its folder."""
    overrides = ["dataset=cifar100_mini", "teacher=resnet20", "student=resnet8", "teacher.checkpoint=shipped"]
    overrides += ["schedule=quick", "schedule.epochs=1", "schedule.batch_size=500", f"output={folder}"]
    overrides += ["trainer=cpu", "threads=1", "progress=false", *more]
    choices = dict(word.split("=", 1) for word in overrides)
    train(make_plan(compose_checked("train", overrides), choices))
    (run,) = folder.glob("*/record.json")
    return run.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs"), "loss=kd")


def test_exported_model_loads_in_timm_and_has_the_same_accuracy(run, capsys):
    assert main([str(run)]) == 0
    assert "answers as the student does, to the bit" in capsys.readouterr().out
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["architecture"] == "kdbench_resnet8"
    assert len(config["label_names"]) == 100
    model = timm.create_model(f"local-dir:{run / 'export'}", pretrained=True)
    assert model.get_classifier().out_features == 100
    last = json.loads((run / "record.json").read_text())["results"]["last"]
    weights = f"checkpoint={run / 'export' / 'model.safetensors'}"
    assert evaluate.main(["dataset=cifar100_mini", "model=resnet8", weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == last["top1"]
    card = (run / "export" / "README.md").read_text()
    assert f"| top1 | {last['top1']:.2f} % |" in card
    assert "teacher: resnet20" in card


def test_onnx_model_has_the_same_accuracy(run, capsys):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    assert main([str(run), "--onnx"]) == 0
    file = f"checkpoint={run / 'export' / 'model.onnx'}"
    capsys.readouterr()
    assert evaluate.main(["dataset=cifar100_mini", "model=resnet8", file, "--json"]) == 0
    last = json.loads((run / "record.json").read_text())["results"]["last"]
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(last["top1"], abs=0.2)
    assert evaluate.main(["dataset=cifar100_mini", "model=resnet8", file, "store=resnet8"]) == 2
    assert "cannot be a teacher" in capsys.readouterr().err


def test_head_of_the_loss_is_exported_to_onnx_only(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    run = finished_run(tmp_path / "runs", "loss=simkd")
    with pytest.raises(ValueError, match="answers with a head of its loss"):
        export(run, tmp_path / "out")
    lines = export(run, tmp_path / "out", onnx=True)
    assert "model.onnx answers within" in lines[0]
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_changed_copy_is_noticed(run, tmp_path, monkeypatch, capsys):
    torch.manual_seed(1)
    other = create_model("resnet8", 100)
    monkeypatch.setattr("kdbench.cli.export.timm", SimpleNamespace(create_model=lambda *_, **__: other))
    assert main([str(run), "--to", str(tmp_path)]) == 1
    assert "does not answer as the run's student does" in capsys.readouterr().err


def test_mistakes_are_said(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
