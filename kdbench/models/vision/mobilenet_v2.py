"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) in half width for 32x32 images.

The variant for small images is that of Tian et al. 2020, arXiv:1910.10699.
"""

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

# expansion, channels (half of the paper's, rounded down), blocks, stride of the first block
_GROUPS = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)

# last group of each map size; the first group belongs to stage 1
_STAGE_ENDS = {1: "stage1", 2: "stage2", 4: "stage3", 6: "stage4"}


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolution; added to the input if the shapes are equal."""

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
        """Return signed values: [N, C, H, W] -> [N, outputs, H / stride, W / stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.keeps_shape else y


def residual_groups(inputs: int) -> nn.ModuleList:
    """Return the seven groups of blocks of the paper's table 2."""
    groups = nn.ModuleList()
    for expansion, outputs, blocks, stride in _GROUPS:
        first = InvertedResidual(inputs, outputs, stride, expansion)
        rest = (InvertedResidual(outputs, outputs, 1, expansion) for _ in range(blocks - 1))
        groups.append(nn.Sequential(first, *rest))
        inputs = outputs
    return groups


class MobileNetV2(Network):
    """Half-width MobileNetV2.

    Its stages end in linear bottlenecks without a last ReLU, so each `.pre` equals the stage.
    """

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
        """Return logits [N, C] of images [N, 3, H, W]; see `Network.forward`."""
        x = record("stem", self.conv1(x))
        for number, group in enumerate(self.blocks):
            x = group(x)
            if number in _STAGE_ENDS:
                stage = _STAGE_ENDS[number]
                x = record(stage, record(f"{stage}.pre", x))
        logits: Tensor = self.classifier(record("pooled", global_pool(record("unpooled", self.conv2(x)))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        head = self.classifier[0]
        assert isinstance(head, nn.Linear)
        return head

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """Return the BatchNorm that ends the last bottleneck of each stage."""
        return by_stage(*([*self.blocks[number].modules()][-1] for number in _STAGE_ENDS))


register("MobileNetV2", MobileNetV2)
