"""ResNets (He et al. 2016, arXiv:1512.03385, sec. 4.2) for 32x32 images.

The variants are those of Tian et al. 2020, arXiv:1910.10699: thin networks, x4 wide ones, and ResNet50 with a
3x3 stem.
"""

from functools import partial

import torch.nn.functional as F
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
    rectified_stage,
    register,
)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the shortcut: the identity, or a 1x1 convolution with BatchNorm if the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the caller applies the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum before the block's last ReLU: [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        y = F.relu_(self.bn1(self.conv1(x)))
        total: Tensor = self.bn2(self.conv2(y))
        return total.add_(self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and four times wider 1x1 convolutions and a shortcut; the caller applies the last ReLU."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum before the block's last ReLU: [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        y = F.relu_(self.bn1(self.conv1(x)))
        y = F.relu_(self.bn2(self.conv2(y)))
        total: Tensor = self.bn3(self.conv3(y))
        return total.add_(self.shortcut(x))


def basic_stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a stage whose first block changes width and map size."""
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


def bottleneck_stage(blocks: int, inputs: int, width: int, stride: int) -> nn.Sequential:
    """Return a stage whose first block changes width and map size."""
    first = Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))


class ResNet(Network):
    """A CIFAR ResNet of 6n+2 layers.

    Args:
        depth: Number of layers, 6n+2.
        num_classes: Number of logits.
        width: Factor of the stages' channels; the stem of a wide network has 32 channels.

    Raises:
        ValueError: For another depth.
    """

    features = rectified_feature_names(3)

    def __init__(self, depth: int, num_classes: int, width: int = 1) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"ResNet: depth must be 6n+2 (8, 14, 20, ...), got {depth}")
        blocks = (depth - 2) // 6
        stem, (w1, w2, w3) = 16 if width == 1 else 32, (16 * width, 32 * width, 64 * width)
        self.conv1 = conv3x3(3, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = basic_stage(blocks, stem, w1, stride=1)
        self.layer2 = basic_stage(blocks, w1, w2, stride=2)
        self.layer3 = basic_stage(blocks, w2, w3, stride=2)
        self.fc = nn.Linear(w3, num_classes)
        kaiming_convolutions(self)

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]; see `Network.forward`."""
        x = record("stem", F.relu_(self.bn1(self.conv1(x))))
        x = rectified_stage(self.layer1, x, "stage1", record)
        x = rectified_stage(self.layer2, x, "stage2", record)
        x = rectified_stage(self.layer3, x, "stage3", record)
        logits: Tensor = self.fc(record("pooled", global_pool(record("unpooled", x))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        return self.fc

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """Return the BatchNorm that feeds each stage's `.pre`."""
        return by_stage(*(stage[-1].bn2 for stage in (self.layer1, self.layer2, self.layer3)))


class ResNet50(Network):
    """The ImageNet bottleneck network with a 3x3 stem of stride 1 and no max-pooling."""

    features = rectified_feature_names(4)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottleneck_stage(3, 64, 64, stride=1)
        self.layer2 = bottleneck_stage(4, 256, 128, stride=2)
        self.layer3 = bottleneck_stage(6, 512, 256, stride=2)
        self.layer4 = bottleneck_stage(3, 1024, 512, stride=2)
        self.linear = nn.Linear(2048, num_classes)
        kaiming_convolutions(self)

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]; see `Network.forward`."""
        x = record("stem", F.relu_(self.bn1(self.conv1(x))))
        x = rectified_stage(self.layer1, x, "stage1", record)
        x = rectified_stage(self.layer2, x, "stage2", record)
        x = rectified_stage(self.layer3, x, "stage3", record)
        x = rectified_stage(self.layer4, x, "stage4", record)
        logits: Tensor = self.linear(record("pooled", global_pool(record("unpooled", x))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        return self.linear

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """Return the BatchNorm that feeds each stage's `.pre`."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return by_stage(*(stage[-1].bn3 for stage in stages))


NETWORKS = {
    "resnet8": {"depth": 8},
    "resnet14": {"depth": 14},
    "resnet20": {"depth": 20},
    "resnet32": {"depth": 32},
    "resnet44": {"depth": 44},
    "resnet56": {"depth": 56},
    "resnet110": {"depth": 110},
    "resnet8x4": {"depth": 8, "width": 4},
    "resnet32x4": {"depth": 32, "width": 4},
}
"""Arguments of `ResNet` by name."""

for _name, _arguments in NETWORKS.items():
    register(_name, partial(ResNet, **_arguments))
register("ResNet50", ResNet50)
