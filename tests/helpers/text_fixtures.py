"""The rationales of SVAMP, which are shipped with the package."""

import pytest

from tests.helpers.model_folders import save_gpt2


@pytest.fixture(scope="session")
def common() -> list[str]:
    """Short and few, for one CPU core."""
    words = [
        "dataset.vocabulary=400",
        "dataset.prompt=false",
        "dataset.max_response=32",
        "schedule.batch_size=16",
    ]
    return ["dataset=svamp_lm", *words, "trainer=cpu", "threads=1", "progress=false"]


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A folder with a tiny GPT-2 and its tokenizer; nobody writes into it."""
    return save_gpt2(tmp_path_factory.mktemp("gpt2"))
