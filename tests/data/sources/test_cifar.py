import io
import json
import os
import pickle
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kdbench.data.images.image_io import DataError
from kdbench.data.sources import cifar
from kdbench.data.sources.cifar import CIFAR10, CIFAR100, load_cifar

KINDS = pytest.mark.parametrize("kind", [CIFAR100, CIFAR10], ids=lambda kind: kind.name)
CLASSES = CIFAR100.classes
load_cifar100 = partial(load_cifar, CIFAR100)
REAL = os.environ.get("KDBENCH_DATA")
ROWS = {"train": 200, "test": 100}


@pytest.fixture(autouse=True)
def small_data_sets(monkeypatch):
    """Use small counts, none of this machine's data, and a hub that always fails."""
    monkeypatch.setattr(cifar, "ROWS", ROWS)
    monkeypatch.delenv("KDBENCH_DATA", raising=False)

    def no_hub(*args, **options):
        raise DataError("no hub in tests")

    monkeypatch.setattr(cifar, "load_hub", no_hub)


def pixels(split: str) -> np.ndarray:
    return np.random.default_rng(len(split)).integers(0, 256, (ROWS[split], 32, 32, 3), dtype=np.uint8)


def labels(split: str, kind=CIFAR100) -> list[int]:
    return [row * 7 % len(kind.classes) for row in range(ROWS[split])]


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(folder: Path, split: str, kind=CIFAR100, names=None, **changed) -> None:
    image, label, *others = kind.columns
    columns = {
        image: [{"bytes": png(image), "path": None} for image in pixels(split)],
        label: labels(split, kind),
        **{name: [0] * ROWS[split] for name in others},
    } | changed
    features = {label: {"names": list(names or kind.classes), "_type": "ClassLabel"}}
    table = pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pq.write_table(table.slice(0, 120), folder / f"{split}-00000-of-00002.parquet")
    pq.write_table(table.slice(120), folder / f"{split}-00001-of-00002.parquet")


def write_hub_layout(root: Path, kind) -> Path:
    folder = root / kind.name
    folder.mkdir()
    for split in ROWS:
        write_parquet(folder, split, kind)
    return folder


@pytest.fixture
def hub_layout(tmp_path):
    return write_hub_layout(tmp_path, CIFAR100)


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as 8-bit strings of Python 2, like the authors' files."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def as_python2(content) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


def as_python3(protocol):
    return lambda content: pickle.dumps({k.encode(): v for k, v in content.items()}, protocol=protocol)


def write_python(folder: Path, dump=as_python2, kind=CIFAR100) -> Path:
    """Write the authors' layout; CIFAR-10 has its training images in five files."""
    folder.mkdir(parents=True)
    others = {"batch_label": "training batch 1 of 5", "coarse_labels": [0], "filenames": ["a.png"]}
    for split, names in kind.files.items():
        rows = pixels(split).transpose(0, 3, 1, 2).reshape(len(names), -1, 3072)
        parts = np.array(labels(split, kind)).reshape(len(names), -1).tolist()
        for name, data, part in zip(names, rows, parts, strict=True):
            (folder / name).write_bytes(dump({"data": data, kind.labels: part, **others}))
    (folder / kind.names).write_bytes(dump({kind.names_key: list(kind.classes), "num_vis": 3072}))
    return folder


def equals_the_data(splits, kind=CIFAR100) -> bool:
    return all(
        torch.equal(part.images, torch.from_numpy(pixels(split)).permute(0, 3, 1, 2))
        and part.labels.tolist() == labels(split, kind)
        and part.classes == kind.classes
        for split, part in (("train", splits.train), ("test", splits.test))
    )


@KINDS
def test_parquet_files_load_by_path(tmp_path, kind):
    folder = write_hub_layout(tmp_path, kind)
    for path in (folder, folder.parent):
        splits = load_cifar(kind, str(path))
        assert equals_the_data(splits, kind)
        assert not splits.authors_order


@KINDS
def test_parquet_files_load_by_the_environment(tmp_path, monkeypatch, kind):
    write_hub_layout(tmp_path, kind)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    assert equals_the_data(load_cifar(kind), kind)


@KINDS
@pytest.mark.parametrize("dump", [as_python2, as_python3(2), as_python3(4), as_python3(5)])
@pytest.mark.parametrize("inner", [True, False])
def test_authors_files_load(tmp_path, monkeypatch, dump, inner, kind):
    write_python(tmp_path / kind.name / (kind.folder if inner else "."), dump, kind)
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    for splits in (load_cifar(kind), load_cifar(kind, str(tmp_path / kind.name))):
        assert equals_the_data(splits, kind)
        assert splits.authors_order, "the order of the papers"


def test_file_names_of_cifar10():
    assert CIFAR10.files["train"] == tuple(f"data_batch_{number}" for number in (1, 2, 3, 4, 5))
    assert (CIFAR10.files["test"], CIFAR10.names) == (("test_batch",), "batches.meta")
    assert (CIFAR10.labels, CIFAR10.names_key, CIFAR10.folder) == (
        "labels",
        "label_names",
        "cifar-10-batches-py",
    )
    assert (CIFAR10.hub_name, CIFAR10.columns) == ("uoft-cs/cifar10", ("img", "label"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3", None, "data_batch_3: refused or unreadable"),
        (
            "data_batch_3",
            {"data": np.zeros((40, 3072), np.uint8), "fine_labels": [0] * 40},
            "expected 'labels' as",
        ),
        ("data_batch_3", {"data": np.zeros((39, 3072), np.uint8), "labels": [0] * 39}, "200 rows, found 199"),
        (
            "data_batch_3",
            {"data": np.zeros((40, 3072), np.uint8), "labels": [0] * 39},
            "40 images but 39 labels",
        ),
        (
            "test_batch",
            {"data": np.zeros((100, 3072), np.uint8), "labels": [10] * 100},
            r"0\.\.9, found 10\.\.10",
        ),
        (
            "batches.meta",
            {"label_names": list(CIFAR10.classes)[::-1]},
            "class names or their order differ from those of CIFAR-10",
        ),
        ("batches.meta", {}, "expected 'label_names' as a list"),
    ],
)
def test_invalid_files_of_cifar10_are_refused(tmp_path, name, content, message):
    folder = write_python(tmp_path / "c", kind=CIFAR10)
    (folder / name).unlink() if content is None else (folder / name).write_bytes(as_python2(content))
    with pytest.raises(DataError, match=message) as caught:
        load_cifar(CIFAR10, str(folder))
    for text in ("CIFAR-10 cannot be loaded", "$KDBENCH_DATA/cifar10", "data_batch_5", "uoft-cs/cifar10"):
        assert text in str(caught.value)


def test_path_precedes_the_environment_and_parquet_precedes_pickles(hub_layout, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path / "nowhere"))
    write_python(hub_layout / "cifar-100-python", lambda content: b"never read")
    assert equals_the_data(load_cifar100(str(hub_layout)))


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "content",
    [Malicious(), {"data": Malicious()}, {"data": np.array([Malicious()], dtype=object)}, {"data": eval}],
)
def test_pickles_with_other_objects_are_refused_without_execution(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    folder = write_python(tmp_path / "c")
    (folder / "train").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"c/train: refused or unreadable \(UnpicklingError: it needs"):
        load_cifar100(str(folder))
    assert not (tmp_path / "executed").exists()


def test_other_codecs_are_refused(tmp_path):
    folder = write_python(tmp_path / "c")
    (folder / "train").write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(DataError, match="it needs the codec rot13"):
        load_cifar100(str(folder))


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02", b"no pickle", as_python2([1, 2])])
def test_damaged_pickles_are_refused(tmp_path, content):
    """With content None the file is missing."""
    folder = write_python(tmp_path / "c")
    (folder / "test").unlink() if content is None else (folder / "test").write_bytes(content)
    with pytest.raises(DataError, match="c/test: "):
        load_cifar100(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((200, 3071), np.uint8)}, r"expected 'data' as a uint8 array \[N, 3072\]"),
        ({"data": np.zeros((200, 3072), np.float32)}, r"expected 'data' as a uint8 array"),
        ({"data": np.zeros((9, 3072), np.uint8)}, "9 images but 200 labels"),
        ({"fine_labels": ["a"] * 200}, "expected 'fine_labels' as a list of integers"),
        ({"fine_labels": [100] * 200}, "labels must be in 0..99, found 100..100"),
    ],
)
def test_invalid_content_of_authors_files_is_refused(tmp_path, changes, message):
    folder = write_python(tmp_path / "c")
    valid = {"data": np.zeros((200, 3072), np.uint8), "fine_labels": labels("train")}
    (folder / "train").write_bytes(as_python2(valid | changes))
    with pytest.raises(DataError, match=message):
        load_cifar100(str(folder))


def test_missing_shard_is_refused(hub_layout):
    (hub_layout / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"expected 200 rows, found 120 in 1 file"):
        load_cifar100(str(hub_layout))


def test_missing_split_is_refused(hub_layout):
    for file in hub_layout.glob("test-*"):
        file.unlink()
    with pytest.raises(DataError, match=r"no parquet file is named test\*.parquet"):
        load_cifar100(str(hub_layout))


def test_truncated_parquet_file_is_refused(hub_layout):
    file = hub_layout / "train-00000-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet: not a readable parquet file"):
        load_cifar100(str(hub_layout))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_label": [100] * 200}, "labels must be in 0..99, found 100..100"),
        ({"fine_label": [0.5] * 200}, "column fine_label must hold integers"),
        ({"fine_label": [None, 1] * 100}, "column fine_label must hold integers"),
        ({"img": ["a"] * 200}, "column img must hold structs of image bytes"),
        ({"img": [{"bytes": b"", "path": None}] * 200}, "row 0: not a readable image"),
        ({"img": [{"bytes": png(np.zeros((31, 32, 3), np.uint8))}] * 200}, "32x32 pixels, got 32x31"),
        ({"names": CLASSES[::-1]}, "class names or their order differ from those of CIFAR-100"),
    ],
)
def test_invalid_content_of_parquet_files_is_refused(hub_layout, changes, message):
    write_parquet(hub_layout, "train", **changes)
    with pytest.raises(DataError, match=message):
        load_cifar100(str(hub_layout))


def test_missing_column_is_refused(hub_layout):
    pq.write_table(pa.table({"image": [1]}), hub_layout / "test-00000-of-00002.parquet")
    with pytest.raises(DataError, match="no column coarse_label, fine_label, img; it has image"):
        load_cifar100(str(hub_layout))


def test_errors_list_the_searched_folders_and_three_ways_to_provide_data(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"(?s)no hub in tests.*neither dataset.path nor KDBENCH_DATA is set"):
        load_cifar100()
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    for path in (None, str(tmp_path / "mine")):
        with pytest.raises(DataError) as caught:
            load_cifar100(path)
        message = str(caught.value)
        assert str(tmp_path / ("mine" if path else "cifar100")) in message
        for way in (
            "dataset.path=FOLDER",
            "$KDBENCH_DATA/cifar100",
            "cifar-100-python",
            "uoft-cs/cifar100",
            "mini",
        ):
            assert way in message


def test_hub_is_the_last_resort(monkeypatch):
    """Data of the hub are checked like files."""
    truncated = make_splits(rows=ROWS["train"] - 1)
    monkeypatch.setattr(cifar, "load_hub", lambda *args, **options: truncated)
    with pytest.raises(DataError, match="uoft-cs/cifar100: expected 200 rows, found 199"):
        load_cifar100()


def make_splits(rows):
    part = cifar.ImageSet(torch.zeros(rows, 3, 32, 32, dtype=torch.uint8), torch.zeros(rows).long(), CLASSES)
    return cifar.Splits(part, part)


@pytest.mark.slow
def test_unreachable_hub_fails_within_seconds(tmp_path):
    """Nothing listens at the address; the time excludes imports."""
    code = (
        "import time; from kdbench.data.sources.cifar import CIFAR100, load_cifar; start = time.monotonic()\n"
        "try: load_cifar(CIFAR100)\n"
        "finally: print(time.monotonic() - start)"
    )
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    inherited = {key: value for key, value in os.environ.items() if key != "KDBENCH_DATA"}
    process = subprocess.run(
        [sys.executable, "-c", code], env=inherited | hub, capture_output=True, text=True
    )
    assert "DataError: CIFAR-100 cannot be loaded" in process.stderr
    assert "Retrying" not in process.stderr
    assert float(process.stdout) < 8


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="needs the full CIFAR-100 in $KDBENCH_DATA/cifar100")
def test_full_cifar100_loads(monkeypatch):
    monkeypatch.setattr(cifar, "ROWS", {"train": 50_000, "test": 10_000})
    splits = load_cifar100(f"{REAL}/cifar100")
    assert torch.bincount(splits.train.labels).tolist() == [500] * 100
    assert torch.bincount(splits.test.labels).tolist() == [100] * 100
    mean = splits.train.images.float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(CIFAR100.mean), atol=5e-4, rtol=0)
