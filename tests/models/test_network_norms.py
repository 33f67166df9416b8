"""`Network.stage_norms`: the BatchNorm that feeds each stage's `.pre` feature."""

import pytest
import torch
from torch import nn

from kdbench.models.features import answer, feature_names
from kdbench.models.names import available
from kdbench.models.registry import create_model


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes=10)


@pytest.mark.parametrize("name", [name for name in available() if name != "ShuffleV2"])
def test_every_stage_has_a_norm_with_the_channels_of_its_pre_activation(name):
    model = on_meta(name)
    features = answer(model, torch.empty(2, 3, 32, 32, device="meta"), feature_names(model)).features
    norms = model.stage_norms()
    assert list(norms) == [
        name for name in features if name.startswith("stage") and not name.endswith(".pre")
    ]
    for stage, norm in norms.items():
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.num_features == features[f"{stage}.pre"].shape[1]


def test_shufflenet_v2_has_no_stage_norms():
    assert on_meta("ShuffleV2").stage_norms() == {}


@pytest.mark.parametrize("name", ["resnet8", "ResNet50", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1"])
def test_shift_of_a_norm_shifts_its_pre_activation_equally(name):
    torch.manual_seed(0)
    model, images = create_model(name, num_classes=10).eval(), torch.randn(2, 3, 32, 32)
    for stage, norm in model.stage_norms().items():
        name = f"{stage}.pre"
        shift = torch.linspace(-1, 1, norm.num_features)
        with torch.no_grad():
            before = answer(model, images, [name]).features[name]
            norm.bias += shift
            after = answer(model, images, [name]).features[name]
            norm.bias -= shift
        torch.testing.assert_close(
            after - before, shift[:, None, None].expand_as(after), rtol=1e-3, atol=1e-3
        )


def test_timm_networks_have_no_stage_norms():
    assert not hasattr(create_model("timm/test_resnet", num_classes=10), "stage_norms")
