"""`answer` on kdbench's and timm's networks."""

import pytest
import torch
from torch import nn

from kdbench.models.features import answer, classifier, feature_names, has_feature, record_features
from kdbench.models.network import label
from kdbench.models.registry import create_model


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "ShuffleV2", "timm/test_resnet", "timm/test_vit"])
def test_requesting_features_leaves_the_logits_unchanged(name):
    model = create_model(name, num_classes=10).eval()
    images = torch.randn(2, 3, 160, 160) if name.startswith("timm/") else torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain = model(images)
        assert torch.equal(answer(model, images).logits, plain)
        assert torch.equal(answer(model, images, feature_names(model)).logits, plain)
        assert torch.equal(answer(model, images, ["pooled"]).logits, plain)


@pytest.mark.parametrize("name", ["resnet8", "timm/test_convnext"])
def test_features_are_returned_in_the_requested_order(name):
    model = create_model(name, num_classes=10)
    features = answer(model, torch.randn(2, 3, 32, 32), ["pooled", "stage1"]).features
    assert list(features) == ["pooled", "stage1"]
    assert not answer(model, torch.randn(2, 3, 32, 32)).features


@pytest.mark.parametrize("name", ["MobileNetV2", "ShuffleV1", "timm/test_efficientnet", "timm/test_vit"])
def test_pooled_is_the_input_of_the_classifier(name):
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


def test_nonlinear_classifier_has_no_pooled_feature():
    with torch.device("meta"):
        model = create_model("timm/resnetv2_18", num_classes=10)
    outputs = answer(model, torch.empty(2, 3, 64, 64, device="meta"), ["stage1"])
    assert classifier(model) is None
    assert outputs.classifier is None
    assert "pooled" not in feature_names(model)


def test_hook_on_a_timm_classifier_is_removed():
    model = create_model("timm/test_resnet", num_classes=10)
    answer(model, torch.randn(2, 3, 64, 64), ["pooled"])
    assert not model.get_classifier()._forward_pre_hooks


def test_plain_module_declares_no_features():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert feature_names(model) == ()
    assert answer(model, torch.randn(2, 3, 2, 2)).classifier is None
    with pytest.raises(ValueError, match="has no feature 'pooled'; it has none"):
        answer(model, torch.randn(2, 3, 2, 2), ["pooled"])


def test_unknown_feature_message_lists_the_existing_ones():
    model = create_model("MobileNetV2", num_classes=10)
    message = "MobileNetV2 has no feature 'stage5.pre', 'stage9'; it has stem, stage1.pre, .*unpooled"
    with pytest.raises(ValueError, match=message):
        answer(model, torch.randn(2, 3, 32, 32), ["stage5.pre", "stage1", "stage9"])


class Plain(nn.Module):
    """A network that knows nothing of kdbench."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.layer2 = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU())
        self.pair = nn.Identity()
        self.unused = nn.Conv2d(4, 8, 3)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.layer2(self.layer1(x))
        self.pair((x, x))
        return self.fc(x.mean((2, 3)))


def test_any_module_reports_its_submodules_by_path():
    model, images = Plain(10), torch.randn(2, 3, 8, 8)
    outputs = answer(model, images, ["layer2", "pooled", "layer1.2"])
    assert list(outputs.features) == ["layer2", "pooled", "layer1.2"]
    assert outputs.features["layer2"].shape == (2, 8, 4, 4)
    torch.testing.assert_close(outputs.features["layer2"].mean((2, 3)), outputs.features["pooled"])
    assert outputs.classifier[0] is model.fc.weight
    assert feature_names(model) == ("pooled",)
    assert has_feature(model, "layer1.0")
    assert not has_feature(model, "layer3")
    assert not any(module._forward_hooks for module in model.modules())


def test_recorded_features_carry_gradients_and_hooks_end_with_the_block():
    model, images = Plain(10), torch.randn(2, 3, 8, 8)
    with record_features(model, ["layer1", "layer2"]) as features:
        model(images)
    features["layer2"].sum().backward()
    assert model.layer1[0].weight.grad is not None
    features.clear()
    model(images)
    assert not features


def test_paths_that_do_not_exist_name_the_nearest():
    with pytest.raises(ValueError, match="no feature 'layer3'; it has pooled; nearest submodules: layer"):
        answer(Plain(10), torch.randn(2, 3, 8, 8), ["layer3"])
    with pytest.raises(ValueError, match="nearest submodules: layer"), record_features(Plain(10), ["layer3"]):
        pass


@pytest.mark.parametrize(
    ("feature", "problem"),
    [
        ("layer1.1", "changed in place by a later layer"),
        ("pair", "returns tuple, not a tensor"),
        ("unused", "does not run in the forward pass"),
    ],
)
def test_features_without_a_value_of_their_own_are_refused(feature, problem):
    with pytest.raises(ValueError, match=problem):
        answer(Plain(10), torch.randn(2, 3, 8, 8), [feature])


def test_a_plain_module_with_a_mapping_has_named_features():
    model = label(Plain(10), "plain", {"stage1": "layer1", "stage2": "layer2"})
    assert feature_names(model) == ("stage1", "stage2", "pooled")
    features = answer(model, torch.randn(2, 3, 8, 8), ["stage2", "layer1.2"]).features
    assert features["stage2"].shape == (2, 8, 4, 4)
    with pytest.raises(ValueError, match="features of plain: 'stage1' is 'layer9', which is no submodule"):
        label(Plain(10), "plain", {"stage1": "layer9"})


def test_a_timm_network_reports_submodules_beside_its_stages():
    model = create_model("timm/test_resnet", num_classes=10).eval()
    with torch.no_grad():
        features = answer(model, torch.randn(2, 3, 64, 64), ["stage2", "layer2"]).features
    torch.testing.assert_close(features["stage2"], features["layer2"])
