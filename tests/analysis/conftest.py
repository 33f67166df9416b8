"""Short runs on synthetic images with a random teacher; only their plumbing matters, not their accuracy."""

from pathlib import Path

import pytest
import torch

from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from tests.helpers.composition import compose_checked

register()

TINY = [
    "dataset=fake",
    "dataset.validation=8",
    "schedule=quick",
    "schedule.batch_size=16",
    "schedule.epochs=1",
]
TINY += ["student=resnet8", "trainer=cpu", "threads=1", "progress=false", "teacher=resnet8"]


def train(output: Path, *overrides: str, root: str = "train") -> Path:
    """Train a run and return its folder."""
    words = [*(word for word in TINY if root == "train" or not word.startswith("student=")), *overrides]
    choices = dict(word.split("=", 1) for word in words)
    run(make_plan(compose_checked(root, [*words, f"output={output}"]), choices))
    (folder,) = output.glob("*/")
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "random.safetensors"
    torch.manual_seed(0)
    save_weights(create_model("resnet8", 4), path, {"model": "resnet8", "num_classes": 4})
    return path


@pytest.fixture(scope="session")
def wttm(tmp_path_factory, teacher) -> Path:
    return train(tmp_path_factory.mktemp("wttm"), f"teacher.checkpoint={teacher}", "loss=wttm")


@pytest.fixture(scope="session")
def simkd(tmp_path_factory, teacher) -> Path:
    return train(tmp_path_factory.mktemp("simkd"), f"teacher.checkpoint={teacher}", "loss=simkd")
