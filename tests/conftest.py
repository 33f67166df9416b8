"""Settings of all tests: reproducible property tests, one thread, and a separate KDBENCH_HOME per session."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

pytest_plugins = ["tests.helpers.text_fixtures"]

settings.register_profile("fast", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("thorough", deadline=None, derandomize=True, max_examples=300)  # `make test-slow`
settings.load_profile("fast")


@pytest.fixture(autouse=True, scope="session")
def _quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use one thread per test process, and neither read nor write the user's home."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["KDBENCH_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["WANDB_MODE"] = "offline"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Return to one thread after a run that set another number: small tensors are 20 times slower on two busy cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def big_data() -> Path:
    """Return the folder of the full data sets, or skip the test."""
    folder = os.environ.get("KDBENCH_DATA")
    if not folder:
        pytest.skip("KDBENCH_DATA is not set; it names the folder of the full data sets")
    return Path(folder)
