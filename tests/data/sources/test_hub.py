import threading
import time

import datasets
import pytest
import torch
from PIL import Image

from kdbench.data.images.image_io import DataError, check_memory
from kdbench.data.sources import hub as hub_module
from kdbench.data.sources.hub import hub, load_hub

COLOURS = [(250, 0, 0), (0, 250, 0)]
FEATURES = datasets.Features(
    {
        "photo": datasets.Image(),
        "kind": datasets.ClassLabel(names=["cat", "dog"]),
        "number": datasets.Value("int64"),
        "note": datasets.Value("string"),
    }
)


def part(rows: int, features=FEATURES, **changed):
    photos = [Image.new("RGB", (20, 12 + row % 3), COLOURS[row % 2]) for row in range(rows)]
    columns = {
        "photo": photos,
        "kind": [row % 2 for row in range(rows)],
        "number": [row % 3 for row in range(rows)],
        "note": ["x"] * rows,
    }
    return datasets.Dataset.from_dict(columns | changed, features=features)


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "pets"
    folder.mkdir()
    part(70).to_parquet(folder / "train-00000-of-00001.parquet")
    part(6).to_parquet(folder / "validation-00000-of-00001.parquet")
    return str(folder)


def equals_the_data(splits) -> bool:
    expected = torch.tensor(COLOURS, dtype=torch.uint8)[splits.train.labels]
    return (
        splits.train.images.shape == (70, 3, 8, 8)
        and len(splits.test) == 6
        and splits.train.labels.tolist() == [0, 1] * 35
        and splits.train.classes == ("cat", "dog")
        and torch.equal(splits.train.images[:, :, 4, 4], expected)
    )


def test_columns_and_test_split_are_inferred(parquet):
    assert equals_the_data(load_hub(parquet, size=8))


def test_data_set_on_disk_loads(tmp_path):
    both = datasets.DatasetDict(train=part(70), test=part(6))
    both.save_to_disk(tmp_path / "saved")
    assert equals_the_data(load_hub(str(tmp_path / "saved"), size=8))


def test_columns_and_splits_can_be_specified(parquet):
    names = {
        "image_column": "photo",
        "label_column": "number",
        "train_split": "validation",
        "test_split": "train",
    }
    splits = load_hub(parquet, size=8, **names)
    assert splits.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert splits.train.classes == ("0", "1", "2")
    assert len(splits.test) == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "trian"}, "has no split trian; it has train, validation"),
        ({"test_split": "test"}, "has no split test; it has train, validation"),
        ({"image_column": "img"}, "has no column img; it has photo, kind, number, note"),
        ({"label_column": "note"}, "column note has type .*; labels must be integers or a ClassLabel"),
        ({"size": 0}, "size must be finite and at least 1, got 0"),
    ],
)
def test_missing_splits_and_columns_are_refused(parquet, options, message):
    with pytest.raises(ValueError, match=message):
        load_hub(parquet, **{"size": 8, **options})


def test_several_label_columns_need_a_choice(parquet, tmp_path):
    both = datasets.Features({**FEATURES, "number": datasets.ClassLabel(names=["a", "b", "c"])})
    part(6, both).to_parquet(f"{parquet}/train-00000-of-00001.parquet")
    part(6, both).to_parquet(f"{parquet}/validation-00000-of-00001.parquet")
    with pytest.raises(
        DataError, match=r"2 columns of type ClassLabel \(kind, number\); choose .* label_column="
    ):
        load_hub(parquet, size=8)


def test_hidden_test_labels_are_refused(parquet):
    part(6, kind=[-1] * 6).to_parquet(f"{parquet}/validation-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"validation: labels must be in 0..1, found -1..-1"):
        load_hub(parquet, size=8)


def test_data_larger_than_memory_are_refused(parquet, monkeypatch):
    monkeypatch.setattr(
        hub_module, "check_memory", lambda rows, size: check_memory(rows, size, available=10**6)
    )
    with pytest.raises(DataError, match=r"76 images of 900x900 need 0\.4 GB"):
        load_hub(parquet, size=900)


def test_label_space_has_no_slashes(parquet):
    data = hub(seed=0, batch_size=7, name=parquet, size=8)
    assert "/" not in data.label_space
    data.setup()
    assert (data.train_size, data.steps_per_epoch, data.num_classes) == (70, 10, 2)


def test_silent_hub_fails_after_the_timeout(monkeypatch):
    """The query runs in a thread because, like a DNS query, it can ignore time-outs."""
    release = threading.Event()
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *args, **options: release.wait(30))
    monkeypatch.setattr(hub_module, "_TIMEOUT", 0.2)
    start, offline = time.monotonic(), datasets.config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="data set some/thing is neither a readable folder nor available"):
        load_hub("some/thing", size=8)
    assert time.monotonic() - start < 10
    assert datasets.config.HF_HUB_OFFLINE is offline
    release.set()
