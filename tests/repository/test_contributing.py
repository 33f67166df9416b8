"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"`((?:kdbench|conf|tests)/[\w/.]+)`[^`]*```(?:python|yaml)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("project")
    for name in ("kdbench", "conf", "experiments", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    recipe = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a loss")[1].split("## Add a network")[0]
    files = BLOCK.findall(recipe)
    assert {Path(name).parts[0] for name, _ in files} == {"kdbench", "conf", "tests"}
    for name, content in files:
        assert not (copy / name).exists(), "nothing that exists is edited"
        (copy / name).write_text(content)
    return copy


def execute(project: Path, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True
    )


def test_test_of_a_new_loss_and_its_contract_tests_pass(project):
    tests = ["tests/objectives/test_reverse_kl.py", "tests/objectives/test_objectives_contract.py"]
    ended = execute(
        project,
        "-m",
        "pytest",
        *tests,
        "-p",
        "no:cacheprovider",
        "-k",
        "reverse_kl or two_classes",
    )
    assert ended.returncode == 0, ended.stdout
    assert int(re.search(r"(\d+) passed", ended.stdout)[1]) > 3


@pytest.mark.slow
def test_new_loss_trains_by_name_and_as_a_sum(project, tmp_path):
    run = [
        "-m",
        "kdbench.cli.train",
        "experiment=mini",
        "teacher.checkpoint=shipped",
        "schedule.epochs=1",
        "dataset.padding=4",
    ]
    run += ["trainer=cpu", "schedule.batch_size=500", f"output={tmp_path}", "progress=false"]
    by_name = execute(project, *run, "loss=reverse_kl")
    assert by_name.returncode == 0, by_name.stderr
    as_sum = execute(
        project,
        *run,
        "loss=sum",
        "+objective@loss.objectives.reverse_kl=reverse_kl",
        "+loss.weights.reverse_kl=1",
    )
    assert as_sum.returncode == 0, as_sum.stderr
    hashes = [json.loads(path.read_text())["hashes"] for path in tmp_path.glob("*/record.json")]
    assert len(hashes) == 2
    assert hashes[0] == hashes[1], "the sum is the same run as the recipe"


def test_new_loss_is_listed(project):
    ended = execute(project, "-c", "from kdbench.cli.list import main; main(['losses', '--markdown'])")
    assert "| reverse_kl | MiniLLM" in ended.stdout


NETWORK_TEST = """
import torch
from kdbench.config.compose import compose_checked
from kdbench.models.features import feature_names
from kdbench.models.registry import create_model
from kdbench.runs.hydra_setup import register

model = create_model("tiny", 10)
assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
assert "stage1" in feature_names(model)
register()
cfg = compose_checked("train", ["student=tiny", "teacher=tiny", "loss=at"])
assert (cfg.student.name, cfg.teacher.name) == ("tiny", "tiny")
"""


def test_new_network_of_one_file_is_built_and_chosen_by_name(project):
    recipe = (ROOT / "CONTRIBUTING.md").read_text().split("## Add a network")[1].split("## Add a data set")[0]
    (code,) = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    (project / "kdbench" / "models" / "vision" / "tiny.py").write_text(code)
    ended = execute(project, "-c", NETWORK_TEST)
    assert ended.returncode == 0, ended.stderr
