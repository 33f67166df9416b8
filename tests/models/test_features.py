"""`answer` on kdbench's and timm's networks."""

import pytest
import torch
from torch import nn

from kdbench.models.features import answer, classifier, feature_names
from kdbench.models.registry import create_model


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "ShuffleV2", "timm/test_resnet", "timm/test_vit"])
def test_tapping_leaves_the_logits_as_they_are(name):
    model = create_model(name, num_classes=10).eval()
    images = torch.randn(2, 3, 160, 160) if name.startswith("timm/") else torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain = model(images)
        assert torch.equal(answer(model, images).logits, plain)
        assert torch.equal(answer(model, images, feature_names(model)).logits, plain)
        assert torch.equal(answer(model, images, ["pooled"]).logits, plain)


@pytest.mark.parametrize("name", ["resnet8", "timm/test_convnext"])
def test_only_the_taps_asked_for_are_kept_in_the_order_asked(name):
    model = create_model(name, num_classes=10)
    features = answer(model, torch.randn(2, 3, 32, 32), ["pooled", "stage1"]).features
    assert list(features) == ["pooled", "stage1"]
    assert not answer(model, torch.randn(2, 3, 32, 32)).features


@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "timm/test_efficientnet", "timm/test_vit"])
def test_pooled_is_what_the_classifier_is_given(name):
    model = create_model(name, num_classes=10).eval()
    size = 160 if name == "timm/test_vit" else 64
    outputs = answer(model, torch.randn(2, 3, size, size), ["pooled"])
    weight, bias = outputs.classifier
    assert torch.equal(nn.functional.linear(outputs.features["pooled"], weight, bias), outputs.logits)
    assert weight is model.get_classifier().weight


def test_dropout_before_a_timm_classifier_is_drawn_once():
    model = create_model("timm/test_resnet", num_classes=10, options={"drop_rate": 0.5}).train()
    outputs = answer(model, torch.randn(2, 3, 64, 64), ["stage4", "pooled"])
    weight, bias = outputs.classifier
    assert (outputs.features["pooled"] == 0).any()
    torch.testing.assert_close(nn.functional.linear(outputs.features["pooled"], weight, bias), outputs.logits)


TIMM_SHAPES = {
    "timm/resnet10t": (
        64,
        {
            "stem": (64, 32, 32),
            "stage1": (64, 16, 16),
            "stage2": (128, 8, 8),
            "stage3": (256, 4, 4),
            "stage4": (512, 2, 2),
            "unpooled": (512, 2, 2),
            "pooled": (512,),
        },
    ),
    "timm/convnext_atto": (
        64,
        {
            "stage1": (40, 16, 16),
            "stage2": (80, 8, 8),
            "stage3": (160, 4, 4),
            "stage4": (320, 2, 2),
            "pooled": (320,),
        },
    ),
    "timm/test_vit": (160, {**{f"stage{k}": (64, 10, 10) for k in range(1, 7)}, "pooled": (64,)}),
}


@pytest.mark.parametrize("name", TIMM_SHAPES)
def test_timm_stages_have_the_networks_own_shapes(name):
    size, shapes = TIMM_SHAPES[name]
    with torch.device("meta"):
        model = create_model(name, num_classes=10)
    features = answer(model, torch.empty(2, 3, size, size, device="meta"), feature_names(model)).features
    assert {record: tuple(value.shape[1:]) for record, value in features.items()} == shapes
    assert feature_names(model) == tuple(shapes)


def test_gradients_reach_a_timm_stage():
    model = create_model("timm/test_resnet", num_classes=10)
    answer(model, torch.randn(2, 3, 64, 64), ["stage2"]).features["stage2"].sum().backward()
    assert model.conv1[0].weight.grad.abs().sum() > 0


def test_a_classifier_that_is_no_linear_layer_is_none_and_gives_no_pooled():
    with torch.device("meta"):
        model = create_model("timm/resnetv2_18", num_classes=10)
    outputs = answer(model, torch.empty(2, 3, 64, 64, device="meta"), ["stage1"])
    assert classifier(model) is None
    assert outputs.classifier is None
    assert "pooled" not in feature_names(model)


def test_the_hook_on_a_timm_classifier_is_gone_afterwards():
    model = create_model("timm/test_resnet", num_classes=10)
    answer(model, torch.randn(2, 3, 64, 64), ["pooled"])
    assert not model.get_classifier()._forward_pre_hooks


def test_a_plain_module_has_no_taps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert feature_names(model) == ()
    assert answer(model, torch.randn(2, 3, 2, 2)).classifier is None
    with pytest.raises(ValueError, match="has no feature 'pooled'; it has none"):
        answer(model, torch.randn(2, 3, 2, 2), ["pooled"])


def test_an_unknown_tap_names_those_that_exist():
    model = create_model("MobileNetV2", num_classes=10)
    message = "MobileNetV2 has no feature 'stage5.pre', 'stage9'; it has stem, stage1.pre, stage1, stage2.pre, .*unpooled"
    with pytest.raises(ValueError, match=message):
        answer(model, torch.randn(2, 3, 32, 32), ["stage5.pre", "stage1", "stage9"])
