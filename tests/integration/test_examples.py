"""The examples, and the Python of README and docs/python.md, are executed as they stand."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PRINTS = {
    "plain_pytorch": r"epoch 2: loss [\d.]+, test top-1 [\d.]+ %",
    "lightning_module": r"'test/top1': [\d.]+",
    "timm_features": r"step 9: total [\d.]+ {'ce': [\d.]+, 'reviewkd': [\d.]+}",
    "sweep_to_pandas": r"83,892 parameters in cifar100_mini-resnet20-resnet8-wttm-s1-",
}
FAST = {"timm_features"}


def execute(*arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_script_is_listed_and_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == set(PRINTS)
    listed = (EXAMPLES / "README.md").read_text()
    assert all(
        f"[{path.name}]({path.name})" in listed
        for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb"))
    )


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in sorted(PRINTS)]
)
def test_a_script_runs(name, tmp_path):
    assert re.search(PRINTS[name], execute(str(EXAMPLES / f"{name}.py"), cwd=tmp_path))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    execute("-c", f"{code}\nassert model(torch.randn(1, 3, 32, 32)).shape == (1, 100)", cwd=tmp_path)
    assert len(list((tmp_path / "runs" / "notebook").glob("*/record.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """In one namespace, with the networks and data that the text leaves to the reader, and one epoch for all."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    code = "\n".join(blocks)
    short = code.replace('loss="wttm")', 'loss="wttm", schedule="quick", **{"schedule.epochs": 1})')
    assert short != code
    given = {
        "torch": torch,
        "student": torchvision.models.resnet18(num_classes=100),
        "teacher": torchvision.models.resnet34(num_classes=100),
        "student_logits": torch.randn(8, 100),
        "teacher_logits": torch.randn(8, 100),
        "example_batch": torch.randn(2, 3, 32, 32),
        "images": torch.randn(8, 3, 32, 32),
        "target": torch.arange(8),
    }
    (tmp_path / "page.py").write_text(short)
    left = runpy.run_path(str(tmp_path / "page.py"), init_globals=given)
    assert len(left["frame"]) == 1
    assert not left["model"].training
    assert left["total"].isfinite()
