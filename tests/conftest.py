"""Shared by all tests: reproducible hypothesis, one thread, and a home of its own for every session."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["tests.helpers.text_fixtures"]

settings.register_profile("kdbench", deadline=None, derandomize=True)
settings.load_profile("kdbench")


@pytest.fixture(autouse=True, scope="session")
def _quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests run side by side on few cores: one thread each; nothing is read from or written to the user's home."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["KDBENCH_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(scope="session")
def big_data() -> Path:
    """The folder with the full data sets, or a skip that says why."""
    folder = os.environ.get("KDBENCH_DATA")
    if not folder:
        pytest.skip("KDBENCH_DATA is not set: the full CIFAR-100 is not at hand")
    return Path(folder)
