"""The wheel, used from somewhere else."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what the wheel holds, without the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


def execute(installed: Path, cwd: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ended = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_wheel_is_small_and_holds_what_it_needs(installed):
    names = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {"kdbench/_conf/train.yaml", "kdbench/_experiments/mini.yaml"} <= names
    assert "kdbench/_benchmarks/reference.py" in names
    assert {"kdbench/reports/page/page.html", "kdbench/_experiments/networks/cifar100.yaml"} <= names
    assert any(name.endswith("cifar100_mini.parquet") for name in names)
    assert any(name.endswith("resnet20.safetensors") for name in names)
    assert sum(path.stat().st_size for path in installed.rglob("*")) < 10e6


def test_the_reference_of_the_bench_is_in_the_wheel(installed, tmp_path):
    update = "from kdbench.benchmark.settings import reference_module; print(reference_module().__file__)"
    assert execute(installed, tmp_path, "-c", update).strip().startswith(str(installed))


def test_a_run_from_the_wheel(installed, tmp_path):
    where = execute(installed, tmp_path, "-c", "from kdbench.utils.paths import CONF_DIR; print(CONF_DIR)")
    assert where.strip() == str(installed / "kdbench" / "_conf")
    run = [
        "-m",
        "kdbench.cli.train",
        "experiment=mini",
        "teacher.checkpoint=shipped",
        "schedule.epochs=1",
        "trainer=cpu",
    ]
    printed = execute(installed, tmp_path, *run, "schedule.batch_size=500", "progress=false")
    assert "test top-1" in printed
    assert list((tmp_path / "runs").glob("cifar100_mini-resnet20-resnet8-kd-s0-*/record.json"))


@pytest.mark.slow
def test_a_cohort_from_the_wheel(installed, tmp_path):
    """Hydra finds the launcher although nothing but the package is there."""
    sweep = ["-m", "dataset=fake", "teacher=none", "loss=ce", "student=resnet8,resnet14", "trainer=cpu"]
    few = ["schedule=quick", "schedule.epochs=1", "progress=false", "hydra/launcher=cohort"]
    printed = execute(installed, tmp_path, "-m", "kdbench.cli.train", *sweep, *few)
    assert printed.count("test top-1") == 2
    for path in (tmp_path / "runs").glob("*/record.json"):
        assert len(json.loads(path.read_text())["cohort"]) == 2


HIDE = """
import importlib.metadata, sys
hidden, find = {"wandb", "transformers"}, importlib.metadata.Distribution.from_name.__func__
def from_name(cls, name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(cls, name)
importlib.metadata.Distribution.from_name = classmethod(from_name)
sys.modules.update(dict.fromkeys(hidden))
"""
"""As if they were not installed, for those who ask which packages there are, as torchmetrics does, too."""


@pytest.mark.slow
def test_neither_wandb_nor_transformers_is_needed(installed, tmp_path):
    hidden = f"{HIDE}\nfrom kdbench.cli.train import main; main()"
    few = ["experiment=mini", "teacher.checkpoint=shipped", "schedule.epochs=1", "schedule.batch_size=500"]
    assert "test top-1" in execute(installed, tmp_path, "-c", hidden, *few, "trainer=cpu")
