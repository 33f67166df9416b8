"""Models by name, their configuration files, and the messages for unknown names and options."""

import pytest
import torch

from kdbench.models.configurations import configurations
from kdbench.models.names import available, check_name
from kdbench.models.registry import create_model


def test_generated_configurations_are_those_of_the_registered_networks():
    vision = "kdbench.models.registry.create_model"
    nodes = {name: node for name, node in configurations().items() if node["_target_"] == vision}
    assert nodes == {name: {"_target_": vision, "name": name} for name in available()}


def test_known_names_pass():
    for name in (*available(), "timm/resnet18", "timm/vit_tiny_patch16_224"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet8x5", "did you mean resnet8x4 "),
        ("mobilenetv2", r"did you mean MobileNetV2\?"),
        ("wrn-40-2", "did you mean wrn_40_2 "),
        ("timm/resnt18", "did you mean timm/resnet18 "),
        ("zzz", "There is no model 'zzz'. Possible are "),
        ("resnet18", "Possible are .*resnet8x4, .*vgg19.* and timm/<name>"),
    ],
)
def test_unknown_names_get_suggestions(name, message):
    with pytest.raises(ValueError, match=message):
        check_name(name)
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=10)


def test_options_are_passed_to_timm():
    with torch.device("meta"):
        model = create_model("timm/convnext_atto", num_classes=10, options={"depths": [1, 1, 1, 1]})
    assert len(model.stages[2].blocks) == 1
    assert model.get_classifier().out_features == 10


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet8", {"depth": 3}, "no further options; given: depth"),
        ("timm/test_resnet", {"depht": 3}, "timm/test_resnet does not take the options .*depht"),
        ("timm/test_resnet", {"num_classes": 3}, "cannot set num_classes"),
    ],
)
def test_unknown_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=10, options=options)
