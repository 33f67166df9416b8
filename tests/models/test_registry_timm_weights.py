"""Networks of timm's that start from weights of a file: the body is theirs, a last layer of other classes is not."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdbench.config.compose import compose_checked
from kdbench.models.registry import create_model
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.runs.run import run

register()

NAME = "timm/test_resnet"


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), path)
    return path


def test_all_but_the_last_layer_is_the_files(file):
    torch.manual_seed(0)
    found = create_model(NAME, 4, options={"pretrained": str(file)}).state_dict()
    torch.manual_seed(1)
    expected = timm.create_model("test_resnet", num_classes=1000).state_dict()
    for name, value in found.items():
        if name.startswith("fc."):
            assert len(value) == 4
        else:
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        (NAME, "nowhere.safetensors", "there is no such file; hub asks for timm's own weights"),
        ("resnet8", "hub", "resnet8 has no weights on the hub: only timm/<name> has"),
    ],
)
def test_mistakes_are_said(name, source, words):
    with pytest.raises(ValueError) as caught:
        create_model(name, 4, options={"pretrained": source})
    assert words in str(caught.value)


def test_a_run_is_known_by_the_weights_it_starts_from_and_not_by_their_place(file, tmp_path):
    tiny = [
        "dataset=fake",
        "dataset.train=32",
        "schedule=quick",
        "schedule.batch_size=16",
        "schedule.epochs=1",
    ]
    tiny += ["teacher=none", "loss=ce", f"student={NAME}", "trainer=cpu", "threads=1", "progress=false"]
    elsewhere = tmp_path / "moved.safetensors"
    elsewhere.write_bytes(file.read_bytes())
    hashes = [
        run(make_plan(compose_checked("train", [*tiny, *more, f"output={tmp_path / str(number)}"]), {}))[
            "hashes"
        ]
        for number, more in enumerate(
            ([], *([f"+student.options.pretrained={path}"] for path in (file, elsewhere)))
        )
    ]
    assert "init" not in hashes[0]
    assert json.dumps(hashes[1]) == json.dumps(hashes[2])
    assert hashes[0]["recipe"] != hashes[1]["recipe"]
