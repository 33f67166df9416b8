import importlib.util
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from kdbench.data.images.parquet import class_names
from kdbench.data.sources.cifar import CIFAR100
from kdbench.data.sources.cifar100_mini import FILE, cifar100_mini, load_mini

REAL = os.environ.get("KDBENCH_DATA")


def test_20_training_and_10_test_images_of_each_class():
    splits = load_mini()
    assert splits.train.images.shape == (2000, 3, 32, 32)
    assert splits.test.images.shape == (1000, 3, 32, 32)
    assert torch.bincount(splits.train.labels).tolist() == [20] * 100
    assert torch.bincount(splits.test.labels).tolist() == [10] * 100


def test_label_space_is_that_of_cifar100():
    data = cifar100_mini(seed=0, batch_size=64)
    assert (data.name, data.label_space) == ("cifar100_mini", "cifar100")
    assert class_names(pq.read_table(FILE), "fine_label") == CIFAR100.classes


def test_file_is_small_documented_and_without_duplicates():
    assert FILE.stat().st_size <= 8_000_000
    licence = FILE.with_name("README.md").read_text()
    assert "The authors of CIFAR-100 state no licence" in licence
    assert "Alex Krizhevsky" in licence
    images = Counter(cell["bytes"] for cell in pq.read_table(FILE).column("img").to_pylist())
    assert len(images) == 3000


@pytest.mark.skipif(not REAL, reason="needs the full CIFAR-100 in $KDBENCH_DATA/cifar100")
def test_script_reproduces_the_shipped_rows():
    path = Path(__file__).parents[3] / "scripts" / "make_cifar100_mini.py"
    spec = importlib.util.spec_from_file_location("make_cifar100_mini", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.mini_table(Path(REAL) / "cifar100").equals(pq.read_table(FILE))
