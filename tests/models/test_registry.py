"""Models by name, their configuration files, and the words for names that do not exist."""

from pathlib import Path

import pytest
import torch
import yaml

from kdbench.models.names import available
from kdbench.models.registry import check_name, create_model

CONF = Path(__file__).parents[2] / "conf" / "model"


def test_every_network_has_its_file_and_every_file_its_network():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml")}
    files = {
        name: file
        for name, file in files.items()
        if not file["_target_"].startswith("kdbench.models.language.")
    }
    assert {files.pop("timm")["name"]} == {"???"}
    target = "kdbench.models.registry.create_model"
    assert files == {name: {"_target_": target, "name": name} for name in available()}


def test_names_that_can_be_built():
    for name in (*available(), "timm/resnet18", "timm/vit_tiny_patch16_224"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet8x5", "did you mean resnet8x4 "),
        ("mobilenetv2", r"did you mean MobileNetV2\?"),
        ("wrn-40-2", "did you mean wrn_40_2 "),
        ("timm/resnt18", "did you mean timm/resnet18 "),
        ("zzz", "There is no model 'zzz'. Possible are "),
        ("resnet18", "Possible are .*resnet8x4, .*vgg19.* and timm/<name>"),
    ],
)
def test_an_unknown_name_says_what_was_meant_and_what_is_possible(name, meant):
    with pytest.raises(ValueError, match=meant):
        check_name(name)
    with pytest.raises(ValueError, match=meant):
        create_model(name, num_classes=10)


def test_options_go_to_timm():
    with torch.device("meta"):
        model = create_model("timm/convnext_atto", num_classes=10, options={"depths": [1, 1, 1, 1]})
    assert len(model.stages[2].blocks) == 1
    assert model.get_classifier().out_features == 10


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet8", {"depth": 3}, "no further options; given: depth"),
        ("timm/test_resnet", {"depht": 3}, "timm/test_resnet does not take the options .*depht"),
        ("timm/test_resnet", {"num_classes": 3}, "cannot set num_classes"),
    ],
)
def test_options_that_do_not_exist(name, options, words):
    with pytest.raises(ValueError, match=words):
        create_model(name, num_classes=10, options=options)
