"""A package of one's own brings networks and a data set: from the command line to the record of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NETWORKS = """
from timm.models import register_model
from torch import nn

from kdbench.models.network import Network, global_pool, register, no_recording


class Small(Network):
    features = ("stage1", "unpooled", "pooled")

    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, num_classes)

    def forward(self, x, record=no_recording):
        return self.fc(record("pooled", global_pool(record("unpooled", record("stage1", self.conv(x).relu())))))

    def get_classifier(self):
        return self.fc


register("small", Small)


@register_model
def plain_small(pretrained=False, num_classes=10, width=8, **_):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""

IMAGES = """
from typing import Unpack

from kdbench.data.sources.synthetic import fake
from kdbench.data.images.options import ImageOptions


def noise(mean: list[float], std: list[float], **options: Unpack[ImageOptions]):
    return fake(classes=5, train=64, mean=mean, std=std, **options)
"""

STATISTICS = "mean: [0.5, 0.5, 0.5]\nstd: [0.25, 0.25, 0.25]\n"
FILES = {
    "__init__.py": "",
    "networks.py": NETWORKS,
    "images.py": IMAGES,
    "conf/dataset/noise.yaml": "defaults:\n  - images\n_target_: outsider.images.noise\n" + STATISTICS,
}
TINY = ["schedule=quick", "schedule.epochs=1", "schedule.batch_size=16", "threads=1", "progress=false"]


@pytest.fixture
def install(tmp_path):
    """Install the package with these entry points; returns the environment that finds it."""

    def put(entry_points: str) -> dict[str, str]:
        for name, content in FILES.items():
            file = tmp_path / "outsider" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        metadata = tmp_path / "outsider-1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(entry_points)
        return {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}

    return put


def train(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    """`kdbench train` in a folder of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "kdbench.cli.train", *TINY, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


BOTH = "[kdbench.models]\nall = outsider.networks\n[kdbench.datasets]\nnoise = outsider.images:noise\n"


@pytest.mark.parametrize("student", ["small", pytest.param("timm/plain_small", marks=pytest.mark.slow)])
def test_a_network_and_a_data_set_of_ones_own_train(install, tmp_path, student):
    environment = install(BOTH)
    words = ["dataset=noise", f"student={student}", "teacher=none", "loss=ce"]
    done = train(tmp_path / "work", environment, *words)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("work/runs/*/record.json")
    record = json.loads(file.read_text())
    assert (record["state"], record["names"]["student"], record["names"]["dataset"]) == (
        "done",
        student,
        "noise",
    )


def test_networks_that_cannot_be_imported_are_an_error_where_they_may_be_meant(install, tmp_path):
    environment = install("[kdbench.models]\nbroken = outsider.missing\n")
    other = ["dataset=fake", "teacher=none", "loss=ce", "student=timm", "student.name=small"]
    failed = train(tmp_path / "work", environment, *other)
    assert failed.returncode == 2
    assert "Networks 'broken' (outsider.missing) cannot be imported: No module named" in failed.stderr
    assert "Traceback" not in failed.stderr
