"""The runs that benchmarks/gpu.py starts are valid."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from kdbench.config.command_line import command_line_jobs
from kdbench.runs.hydra_setup import register
from tests.helpers.composition import compose_checked

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
register()


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("kdbench_gpu", BENCHMARKS / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("reference", None)


@pytest.fixture
def session(gpu, tmp_path, monkeypatch):
    file = tmp_path / "gpu-cpu.json"
    options = {
        "device": "cpu",
        "dataset": ["dataset=cifar100_mini"],
        "steps": 2,
        "minutes": 1.0,
        "json": file,
    }
    made = gpu.Session(argparse.Namespace(**options, output=tmp_path))
    monkeypatch.setattr(made, "_untrained", lambda: tmp_path / "teacher.safetensors")
    return made


def test_every_part_is_a_valid_command(gpu, session, monkeypatch):
    commands = {}
    monkeypatch.setattr(session, "_call", lambda words: commands.setdefault(name, words) is None)
    for name in gpu.PARTS:
        if name != "reference":
            assert not session.measure(name), "no run was started"
    for name, (command, *words) in commands.items():
        jobs = command_line_jobs(words)
        for job in jobs:
            compose_checked(command.replace("-", "_"), job)
        assert len(jobs) == {"cohort-4": 4, "cohort-8": 8}.get(name, 1)
    assert set(commands) == set(gpu.PARTS) - {"reference"}


def test_results_of_another_device_are_not_mixed(gpu, session, tmp_path):
    session.file.write_text(json.dumps({"device": "A card", "parts": {}}))
    with pytest.raises(SystemExit, match="A card"):
        gpu.Session(session.options)


def test_a_finished_part_is_not_measured_again(gpu, session, monkeypatch):
    monkeypatch.setattr(session, "_run", lambda name: {"images_per_second": 1.0})
    assert session.measure("graph")
    assert json.loads(session.file.read_text())["parts"]["graph"]["images_per_second"] == 1.0
    monkeypatch.setattr(session, "_run", lambda name: pytest.fail("measured again"))
    assert session.measure("graph")
