"""The 22 CIFAR networks against the published table: size, cost, feature shapes, names of the state dict."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.models.features import answer, feature_names
from kdbench.models.names import available
from kdbench.models.network import Network, register
from kdbench.models.registry import create_model

_THIN = "16x32x32 16x32x32 32x16x16 64x8x8 64"
_WIDE = "32x32x32 64x32x32 128x16x16 256x8x8 256"
_VGG = "64x32x32 128x16x16 256x8x8 512x4x4 512x4x4 512"

# name: parameters, multiply-adds of convolutions and linear layers, shapes of stem, stages, pooled at 3x32x32
TABLE = {
    "resnet8": (83_892, 12_507_392, _THIN),
    "resnet14": (181_108, 26_663_168, _THIN),
    "resnet20": (278_324, 40_818_944, _THIN),
    "resnet32": (472_756, 69_130_496, _THIN),
    "resnet44": (667_188, 97_442_048, _THIN),
    "resnet56": (861_620, 125_753_600, _THIN),
    "resnet110": (1_736_564, 253_155_584, _THIN),
    "resnet8x4": (1_233_540, 177_071_104, _WIDE),
    "resnet32x4": (7_433_860, 1_083_040_768, _WIDE),
    "ResNet50": (23_705_252, 1_298_014_208, "64x32x32 256x32x32 512x16x16 1024x8x8 2048x4x4 2048"),
    "wrn_16_1": (180_916, 26_663_168, _THIN),
    "wrn_16_2": (703_284, 101_118_464, "16x32x32 32x32x32 64x16x16 128x8x8 128"),
    "wrn_40_1": (569_780, 83_286_272, _THIN),
    "wrn_40_2": (2_255_156, 327_610_880, "16x32x32 32x32x32 64x16x16 128x8x8 128"),
    "vgg8": (3_965_028, 96_192_512, _VGG),
    "vgg11": (9_277_284, 209_438_720, _VGG),
    "vgg13": (9_462_180, 284_936_192, _VGG),
    "vgg16": (14_774_436, 398_182_400, _VGG),
    "vgg19": (20_086_692, 511_428_608, _VGG),
    "MobileNetV2": (812_836, 6_523_648, "16x16x16 12x16x16 16x8x8 48x4x4 160x2x2 1280"),
    "ShuffleV1": (949_258, 38_691_456, "24x32x32 240x16x16 480x8x8 960x4x4 960"),
    "ShuffleV2": (1_355_528, 44_504_448, "24x32x32 116x16x16 232x8x8 464x4x4 1024"),
}

# one small network of each family
FAMILIES = ("resnet8", "resnet8x4", "ResNet50", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")


def on_meta(name: str) -> Network:
    with torch.device("meta"):
        model = create_model(name, num_classes=100)
    assert isinstance(model, Network)
    return model


def randomised(name: str) -> Network:
    """Return a network in eval mode whose BatchNorm weights and statistics differ from the initial ones."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10)
    assert isinstance(model, Network)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    with torch.no_grad():
        model(torch.randn(4, 3, 32, 32))
    return model.eval()


def multiply_adds(model: nn.Module) -> int:
    counts = []

    def count(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        counts.append(module.weight[0].numel() * output[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.empty(2, 3, 32, 32, device="meta"))
    return sum(counts)


def test_table_has_every_network():
    assert set(available()) == set(TABLE)
    assert len(TABLE) == 22


@pytest.mark.parametrize("name", TABLE)
def test_size_cost_and_shapes_equal_the_table(name):
    parameters, cost, shapes = TABLE[name]
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    outputs = answer(model, torch.empty(2, 3, 32, 32, device="meta"), feature_names(model))
    plain = [name for name in outputs.features if not name.endswith(".pre") and name != "unpooled"]
    assert plain == ["stem", *(f"stage{k}" for k in range(1, len(plain) - 1)), "pooled"]
    assert ["x".join(map(str, outputs.features[name].shape[1:])) for name in plain] == shapes.split()
    assert outputs.logits.shape == (2, 100)
    assert multiply_adds(model) == cost


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "ResNet50", "vgg8", "ShuffleV1", "ShuffleV2"])
def test_stage_is_relu_of_its_pre_activation(name):
    features = answer(model := randomised(name), torch.randn(2, 3, 32, 32), feature_names(model)).features
    pre_activations = [name for name in features if name.endswith(".pre")]
    assert pre_activations == [f"stage{k}.pre" for k in range(1, len(pre_activations) + 1)]
    assert len(pre_activations) == len([name for name in features if name.startswith("stage")]) / 2
    for name in pre_activations:
        assert (features[name] < 0).any()
        assert torch.equal(features[name.removesuffix(".pre")], F.relu(features[name]))


def test_pre_activation_of_a_wide_resnet_is_the_next_norm_of_the_stage():
    features = answer(
        model := randomised("wrn_16_2"), torch.randn(2, 3, 32, 32), feature_names(model)
    ).features
    norms = (model.block2.layer[0].bn1, model.block3.layer[0].bn1, model.bn1)
    for k, norm in enumerate(norms, start=1):
        assert (features[f"stage{k}"] < 0).any()
        torch.testing.assert_close(features[f"stage{k}.pre"], norm(features[f"stage{k}"]))
    assert (features["stem"] < 0).any()
    torch.testing.assert_close(features["pooled"], F.relu(features["stage3.pre"]).mean((2, 3)))


def test_mobilenet_stages_are_signed_and_equal_their_pre_activations():
    features = answer(
        model := randomised("MobileNetV2"), torch.randn(2, 3, 32, 32), feature_names(model)
    ).features
    for k in range(1, 5):
        assert (features[f"stage{k}"] < 0).any()
        assert torch.equal(features[f"stage{k}"], features[f"stage{k}.pre"])


@pytest.mark.parametrize("name", [*FAMILIES, "timm/resnet10t", "timm/test_efficientnet"])
def test_pooled_is_the_mean_of_unpooled(name):
    model = randomised(name) if name in FAMILIES else create_model(name, num_classes=10).eval()
    features = answer(model, torch.randn(2, 3, 32, 32), ["unpooled", "pooled"]).features
    torch.testing.assert_close(features["pooled"], features["unpooled"].mean((2, 3)))


@pytest.mark.parametrize("name", FAMILIES)
def test_training_forward_updates_norms_once_and_leaves_features_unchanged(name):
    torch.manual_seed(0)
    model, images = create_model(name, num_classes=10), torch.randn(4, 3, 32, 32)
    recorded: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def record(name, value):
        recorded[name] = (value, value.detach().clone())
        return value

    model(images, record=record).square().mean().backward()
    assert tuple(recorded) == model.features
    assert all(torch.equal(value, copy) for value, copy in recorded.values())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_accepts_other_image_sizes(name):
    model = on_meta(name)
    for size in (64, 96):
        assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 100)


def test_vgg_pools_once_more_at_64_pixels():
    model = on_meta("vgg8")
    features = answer(model, torch.empty(2, 3, 64, 64, device="meta"), ["stage3", "stage4"]).features
    assert [features[name].shape[-1] for name in ("stage3", "stage4")] == [8, 4]


@pytest.mark.parametrize("name", FAMILIES)
def test_recorder_can_replace_a_feature(name):
    """With zeros for `pooled`, only the classifier's bias is left."""
    model = randomised(name)
    logits = model(torch.randn(2, 3, 32, 32), record=lambda name, value: value * (name != "pooled"))
    assert torch.equal(logits, model.get_classifier().bias.expand(2, -1))


# the names that official checkpoints use, one or more of each kind that a family has
OFFICIAL = {
    "resnet8x4": "conv1.weight bn1.running_mean layer1.0.downsample.0.weight layer1.0.downsample.1.bias "
    "layer2.0.conv1.weight layer3.0.bn2.num_batches_tracked fc.weight fc.bias",
    "ResNet50": "conv1.weight bn1.weight layer1.0.shortcut.0.weight layer1.0.shortcut.1.running_var "
    "layer3.5.conv3.weight layer4.2.bn3.bias linear.weight linear.bias",
    "wrn_16_2": "conv1.weight block1.layer.0.bn1.weight block1.layer.0.convShortcut.weight "
    "block2.layer.1.conv2.weight block3.layer.1.bn2.running_mean bn1.weight fc.bias",
    "vgg13": "block0.0.weight block0.0.bias block0.1.running_var block0.3.weight block4.4.bias "
    "classifier.weight classifier.bias",
    "MobileNetV2": "conv1.0.weight conv1.1.weight blocks.0.0.conv.0.weight blocks.3.3.conv.3.weight "
    "blocks.6.0.conv.7.running_mean conv2.0.weight conv2.1.bias classifier.0.weight classifier.0.bias",
    "ShuffleV1": "conv1.weight bn1.weight layer1.0.conv1.weight layer2.7.bn3.weight layer3.3.conv3.weight "
    "linear.weight linear.bias",
    "ShuffleV2": "conv1.weight bn1.weight layer1.0.conv5.weight layer1.0.bn5.bias layer2.7.conv3.weight "
    "layer3.3.bn3.weight conv2.weight bn2.weight linear.weight",
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_state_dict_uses_the_official_names(name):
    assert set(OFFICIAL[name].split()) <= on_meta(name).state_dict().keys()


def test_shortcut_is_projected_only_where_the_shape_changes():
    assert not [key for key in on_meta("resnet8").state_dict() if key.startswith("layer1.0.downsample")]
    assert "block1.layer.0.convShortcut.weight" not in on_meta("wrn_16_1").state_dict()


@pytest.mark.parametrize(
    ("name", "convolution"), [("resnet8x4", "layer3.0.conv1"), ("wrn_16_2", "block3.layer.0.conv1")]
)
def test_convolutions_start_as_kaiming_normal_fan_out(name, convolution):
    """On a convolution that widens, since fan-in and fan-out are the same elsewhere."""
    torch.manual_seed(0)
    weight = create_model(name, num_classes=10).get_submodule(convolution).weight
    assert weight.std().item() == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", ["vgg8", "MobileNetV2"])
def test_classifiers_of_vgg_and_mobilenet_start_small(name):
    torch.manual_seed(0)
    head = create_model(name, num_classes=100).get_classifier()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()


def test_seed_determines_the_weights():
    def first_weight(seed):
        torch.manual_seed(seed)
        return create_model("resnet8", num_classes=10).conv1.weight

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


def test_timm_creates_registered_networks():
    model = timm.create_model("kdbench_resnet8x4", num_classes=7)
    assert model.get_classifier().out_features == 7
    with pytest.raises(ValueError, match="no pretrained weights"):
        timm.create_model("kdbench_resnet8x4", pretrained=True)
    with pytest.raises(ValueError, match="no further options; given: in_chans"):
        timm.create_model("kdbench_resnet8x4", in_chans=1)


def test_register_adds_a_network_with_one_call():
    class Tiny(Network):
        features = ("pooled",)

        def __init__(self, num_classes):
            super().__init__()
            self.fc = nn.Linear(3, num_classes)

        def forward(self, x, record):
            return self.fc(record("pooled", x.mean((2, 3))))

        def get_classifier(self):
            return self.fc

    register("tiny_for_test", Tiny)
    try:
        model = create_model("tiny_for_test", num_classes=5)
        assert answer(model, torch.ones(2, 3, 4, 4), ["pooled"]).features["pooled"].shape == (2, 3)
    finally:
        timm.models._registry._model_entrypoints.pop("kdbench_tiny_for_test")


def test_impossible_depths_are_refused():
    from kdbench.models.vision.resnet import ResNet
    from kdbench.models.vision.wide_resnet import WideResNet

    with pytest.raises(ValueError, match=r"depth must be 6n\+2 .* got 18"):
        ResNet(18, num_classes=10)
    with pytest.raises(ValueError, match=r"depth must be 6n\+4 .* got 18"):
        WideResNet(18, 1, num_classes=10)
