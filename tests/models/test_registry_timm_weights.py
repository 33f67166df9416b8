"""timm networks initialised from a file of weights, without a last layer for other classes."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdbench.models.registry import create_model
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from tests.helpers.composition import compose_checked

register()

NAME = "timm/test_resnet"


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), path)
    return path


def test_weights_of_the_file_except_the_last_layer_are_loaded(file):
    torch.manual_seed(0)
    actual = create_model(NAME, 4, options={"pretrained": str(file)}).state_dict()
    torch.manual_seed(1)
    expected = timm.create_model("test_resnet", num_classes=1000).state_dict()
    for name, value in actual.items():
        if name.startswith("fc."):
            assert len(value) == 4
        else:
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        (NAME, "nowhere.safetensors", "no such file; pass a file, or hub for timm's own weights"),
        ("resnet8", "hub", "resnet8 has no weights on the hub: only timm/<name> has"),
    ],
)
def test_invalid_sources_are_refused(name, source, message):
    with pytest.raises(ValueError) as caught:
        create_model(name, 4, options={"pretrained": source})
    assert message in str(caught.value)


def test_run_identity_depends_on_initial_weights_but_not_on_their_path(file, tmp_path):
    settings = [
        "dataset=fake",
        "dataset.train=32",
        "schedule=quick",
        "schedule.batch_size=16",
        "schedule.epochs=1",
    ]
    settings += ["teacher=none", "loss=ce", f"student={NAME}", "trainer=cpu", "threads=1", "progress=false"]
    copy = tmp_path / "moved.safetensors"
    copy.write_bytes(file.read_bytes())
    hashes = [
        run(make_plan(compose_checked("train", [*settings, *extra, f"output={tmp_path / str(number)}"]), {}))[
            "hashes"
        ]
        for number, extra in enumerate(
            ([], *([f"+student.options.pretrained={path}"] for path in (file, copy)))
        )
    ]
    assert "init" not in hashes[0]
    assert json.dumps(hashes[1]) == json.dumps(hashes[2])
    assert hashes[0]["recipe"] != hashes[1]["recipe"]
