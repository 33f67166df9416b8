"""Sandler et al. 2018, "MobileNetV2", arXiv:1801.04381, half width, for 32x32 images as in Tian et al. 2020
(arXiv:1910.10699)."""

from torch import Tensor, nn

from kdbench.models.network import (
    FeatureRecorder,
    Network,
    by_stage,
    conv1x1,
    conv3x3,
    global_pool,
    kaiming_convolutions,
    no_recording,
    rectified_feature_names,
    register,
    small_normal,
)

# expansion, channels (half of the paper's, rounded down), blocks, stride of the first
_GROUPS = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)

# groups that share a map size end one stage; the first group belongs to stage 1
_STAGE_ENDS = {1: "stage1", 2: "stage2", 4: "stage3", 6: "stage4"}


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1; added to its input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.keeps_shape = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            conv1x1(inputs, hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            conv3x3(hidden, hidden, stride, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            conv1x1(hidden, outputs),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, outputs, H / stride, W / stride], signed."""
        y: Tensor = self.conv(x)
        return x + y if self.keeps_shape else y


def residual_groups(inputs: int) -> nn.ModuleList:
    """The seven groups of the paper's table 2."""
    groups = nn.ModuleList()
    for expansion, outputs, blocks, stride in _GROUPS:
        first = InvertedResidual(inputs, outputs, stride, expansion)
        rest = (InvertedResidual(outputs, outputs, 1, expansion) for _ in range(blocks - 1))
        groups.append(nn.Sequential(first, *rest))
        inputs = outputs
    return groups


class MobileNetV2(Network):
    """Half-width MobileNetV2. Its stages end in linear bottlenecks: there is no last ReLU, and each `.pre` is the
    stage itself."""

    features = rectified_feature_names(4)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv3x3(3, 16, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = residual_groups(16)
        self.conv2 = nn.Sequential(conv1x1(160, 1280), nn.BatchNorm2d(1280), nn.ReLU())
        head = nn.Linear(1280, num_classes)
        self.classifier = nn.Sequential(head)
        kaiming_convolutions(self)
        small_normal(head)

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Logits [N, C] of images [N, 3, H, W]."""
        x = record("stem", self.conv1(x))
        for number, group in enumerate(self.blocks):
            x = group(x)
            if number in _STAGE_ENDS:
                stage = _STAGE_ENDS[number]
                x = record(stage, record(f"{stage}.pre", x))
        logits: Tensor = self.classifier(record("pooled", global_pool(record("unpooled", self.conv2(x)))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """The last linear layer."""
        head = self.classifier[0]
        assert isinstance(head, nn.Linear)
        return head

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """The BatchNorm that ends the last bottleneck of each stage."""
        return by_stage(*([*self.blocks[number].modules()][-1] for number in _STAGE_ENDS))


register("MobileNetV2", MobileNetV2)
