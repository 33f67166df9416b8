"""Checkpoints: formats, error messages, atomic writes, and safety against pickled code."""

import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kdbench.core.errors import RunError
from kdbench.models.checkpoints import load_weights, save_weights, weights_hash
from kdbench.models.registry import create_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("resnet8", num_classes=10)


def refusal(model, path):
    """Return the message with which a file is refused; the model must be unchanged."""
    before = weights_hash(model)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_weights(model, path)
    assert weights_hash(model) == before
    return str(caught.value)


def test_safetensors_round_trip(model, tmp_path):
    path = tmp_path / "new" / "weights.safetensors"
    save_weights(model, path, {"model": "resnet8", "num_classes": 10, "epoch": 3, "accuracy": 61.5})
    other = create_model("resnet8", num_classes=10)
    assert weights_hash(other) != weights_hash(model)
    assert load_weights(other, path) == {"model": "resnet8", "num_classes": 10, "epoch": 3, "accuracy": 61.5}
    assert weights_hash(other) == weights_hash(model)
    assert os.listdir(path.parent) == ["weights.safetensors"]


def test_failed_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_weights(model, path, {"epoch": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(RunError, match="no space"):
        save_weights(model, path, {"epoch": 2})
    assert load_weights(model, path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["weights.safetensors"]


def test_foreign_safetensors_have_no_metadata(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    assert load_weights(model, tmp_path / "plain.safetensors") == {}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_load_bare_and_under_model(model, tmp_path, prefix):
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "bare.pth")
    extra = {"epoch": 240, "best_acc": torch.tensor(72.5), "optimizer": {"lr": 0.1}}
    torch.save({"model": state, **extra}, tmp_path / "official.pth")
    for file, metadata in {"bare.pth": {}, "official.pth": {"epoch": 240, "best_acc": 72.5}}.items():
        other = create_model("resnet8", num_classes=10)
        assert load_weights(other, tmp_path / file) == metadata
        assert weights_hash(other) == weights_hash(model)


def test_half_precision_is_cast_to_the_dtype_of_the_network(model, tmp_path):
    torch.save(
        {"model": {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}},
        tmp_path / "h.pth",
    )
    other = create_model("resnet8", num_classes=10)
    load_weights(other, tmp_path / "h.pth")
    assert other.conv1.weight.dtype == torch.float32
    assert torch.equal(other.conv1.weight, model.conv1.weight.half().float())


def test_timm_networks_save_and_load(tmp_path):
    model = create_model("timm/test_convnext", num_classes=10)
    save_weights(model, tmp_path / "t.safetensors", {})
    other = create_model("timm/test_convnext", num_classes=10, checkpoint=tmp_path / "t.safetensors")
    assert weights_hash(other) == weights_hash(model)
    assert "test_convnext" in refusal(
        create_model("timm/test_convnext2", num_classes=10), tmp_path / "t.safetensors"
    )


def test_missing_file_is_refused(model, tmp_path):
    assert "no checkpoint at" in refusal(model, tmp_path / "none.pth")


def test_another_number_of_classes_is_refused(model, tmp_path):
    save_weights(create_model("resnet8", num_classes=100), tmp_path / "w.safetensors", {})
    message = refusal(model, tmp_path / "w.safetensors")
    assert message.endswith("does not fit resnet8: it expects classifier [10, 64], the file has [100, 64]")


def test_message_names_the_architecture_of_the_file(model, tmp_path):
    torch.save({"model": create_model("wrn_16_2", num_classes=7).state_dict()}, tmp_path / "w.pth")
    assert refusal(model, tmp_path / "w.pth").endswith("the file looks like wrn_16_2, not resnet8")


def test_message_lists_differences_to_an_unknown_architecture(model, tmp_path):
    state = {**model.state_dict(), "extra": torch.ones(1), "conv1.weight": torch.ones(4, 3, 3, 3)}
    del state["bn1.bias"]
    save_file(state, tmp_path / "w.safetensors")
    message = refusal(model, tmp_path / "w.safetensors")
    assert "1 tensors missing, such as bn1.bias; 1 tensors not expected, such as extra" in message
    assert "such as conv1.weight (expected [16, 3, 3, 3], found [4, 3, 3, 3])" in message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_truncated_file_is_refused(model, tmp_path, name):
    path = tmp_path / name
    if name == "w.pth":
        torch.save({"model": model.state_dict()}, path)
    else:
        save_weights(model, path, {})
    path.write_bytes(path.read_bytes()[:50_000])
    assert "is damaged or not a checkpoint" in refusal(model, path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"epoch,accuracy\n1,20.5\n", bytes(range(256)) * 8])
def test_other_files_are_refused(model, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert re.search("is damaged or not a checkpoint|is refused", refusal(model, tmp_path / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds a list"),
        ({}, "holds {}; expected tensors by name"),
        ({"epoch": 3, "net": {}}, "holds {epoch: int, net: dict}; expected tensors by name"),
        ({"model": {"conv1.weight": 3}}, "holds {conv1.weight: int}; expected tensors by name"),
    ],
)
def test_torch_files_without_a_state_dict_are_refused(model, tmp_path, content, message):
    torch.save(content, tmp_path / "w.pth")
    assert message in refusal(model, tmp_path / "w.pth")


class Payload:
    """Creates a file if it is unpickled with code execution."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_never_run(model, tmp_path):
    trace = tmp_path / "trace"
    torch.save({"model": model.state_dict(), "args": Payload(trace)}, tmp_path / "zip.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"model": Payload(trace)}))
    for file in ("zip.pth", "bare.pth"):
        assert "could run code" in refusal(model, tmp_path / file)
    assert not trace.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert trace.exists()


def test_hash_depends_on_values_but_not_on_the_memory_layout(model):
    before = weights_hash(model)
    assert weights_hash(model.to(memory_format=torch.channels_last)) == before
    assert weights_hash(create_model("resnet8", num_classes=10)) != before
    with torch.no_grad():
        model.bn1.running_mean[0] += 1e-7
    assert weights_hash(model) != before


@pytest.fixture
def teachers():
    if "KDBENCH_DATA" not in os.environ:
        pytest.skip("needs the official-format teachers; KDBENCH_DATA is not set")
    return Path(os.environ["KDBENCH_DATA"]) / "teachers"


def test_official_files_load(teachers):
    model = create_model("resnet56", num_classes=100)
    assert load_weights(model, teachers / "resnet56_cifar100.pth") == {"epoch": 30, "accuracy": 70.64}
    half = create_model("vgg13", num_classes=100)
    assert load_weights(half, teachers / "vgg13_cifar100_half.pth") == {"epoch": 12, "accuracy": 67.99}
    assert half.block0[0].weight.dtype == torch.float32


def test_official_files_are_refused_by_other_networks(teachers):
    path = teachers / "resnet56_cifar100.pth"
    other = create_model("resnet20", num_classes=100)
    assert refusal(other, path).endswith("the file looks like resnet56, not resnet20")
    few = create_model("resnet56", num_classes=10)
    assert refusal(few, path).endswith("it expects classifier [10, 64], the file has [100, 64]")


OFFICIAL = {"resnet56": "resnet56_cifar100.pth", "vgg13": "vgg13_cifar100_half.pth"}


def count_correct(name: str, teachers: Path, images: int | None = None) -> int:
    """Return how many of the first CIFAR-100 test images (None: of all) an official file classifies correctly."""
    model = create_model(name, num_classes=100, checkpoint=teachers / OFFICIAL[name]).eval()
    table = parquet.read_table(teachers.parent / "cifar100" / "test-00000-of-00001.parquet")
    rows = table.slice(0, images).to_pylist()
    pixels = np.stack([np.array(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in rows])
    mean, std = torch.tensor([0.5071, 0.4867, 0.4408]), torch.tensor([0.2675, 0.2565, 0.2761])
    inputs = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = torch.cat([model(batch).argmax(1) for batch in inputs.split(250)])
    return int((answers == torch.tensor([row["fine_label"] for row in rows])).sum())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("resnet56", 7064), ("vgg13", 6799)])
def test_official_files_keep_their_recorded_accuracy(teachers, name, expected):
    """Names and shapes alone prove little: accuracy on the whole test set must equal that in the file."""
    assert count_correct(name, teachers) == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(("name", "expected"), [("resnet56", 120), ("vgg13", 126)])
def test_official_files_keep_their_accuracy_on_a_few_images(teachers, name, expected):
    """Fast version on 200 images; the counts were measured with code that passed the slow test."""
    assert count_correct(name, teachers, 200) == pytest.approx(expected, abs=1)
