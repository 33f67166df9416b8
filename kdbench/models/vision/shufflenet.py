"""ShuffleNet (Zhang et al. 2018, arXiv:1707.01083) and ShuffleNet V2 (Ma et al. 2018, arXiv:1807.11164).

The variants for 32x32 images are those of Tian et al. 2020, arXiv:1910.10699: 1x1 stems, no max-pooling.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.network import (
    FeatureRecorder,
    Network,
    by_stage,
    conv1x1,
    conv3x3,
    global_pool,
    no_recording,
    rectified_feature_names,
    rectified_stage,
    register,
)

_STEM = 24
_GROUPS = 3


class GroupedBottleneck(nn.Module):
    """Grouped 1x1, shuffle, 3x3 depthwise and grouped 1x1; the caller applies the last ReLU.

    The pooled input is concatenated at stride 2; the input is added at stride 1.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.downsamples = stride == 2
        branch = outputs - inputs if self.downsamples else outputs
        width = branch // 4
        # the paper does not group the few channels of the stem (sec. 3.2)
        self.groups = 1 if inputs == _STEM else _GROUPS
        self.conv1 = conv1x1(inputs, width, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, branch, groups=_GROUPS)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        """Return the concatenation or sum before the block's last ReLU."""
        y: Tensor = F.channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        # the reference has a ReLU after the depthwise convolution, the paper has none
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.downsamples:
            return torch.cat([y, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return y + x


def grouped_stage(blocks: int, inputs: int, outputs: int) -> nn.Sequential:
    """Return a stage whose first block halves the map."""
    first = GroupedBottleneck(inputs, outputs, stride=2)
    return nn.Sequential(first, *(GroupedBottleneck(outputs, outputs, stride=1) for _ in range(blocks - 1)))


class ShuffleV1(Network):
    """ShuffleNet with three groups."""

    features = rectified_feature_names(3)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(3, _STEM)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = grouped_stage(4, _STEM, 240)
        self.layer2 = grouped_stage(8, 240, 480)
        self.layer3 = grouped_stage(4, 480, 960)
        self.linear = nn.Linear(960, num_classes)

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]; see `Network.forward`."""
        x = record("stem", F.relu(self.bn1(self.conv1(x))))
        x = rectified_stage(self.layer1, x, "stage1", record)
        x = rectified_stage(self.layer2, x, "stage2", record)
        x = rectified_stage(self.layer3, x, "stage3", record)
        logits: Tensor = self.linear(record("pooled", global_pool(record("unpooled", x))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        return self.linear

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """Return the BatchNorm that feeds each stage's `.pre`."""
        return by_stage(*(stage[-1].bn3 for stage in (self.layer1, self.layer2, self.layer3)))


class SplitBlock(nn.Module):
    """Convolves half of the channels and shuffles all; the caller applies the last ReLU.

    The other half comes out of a ReLU already, so the caller's does not change it. The reference code takes
    its feature before that ReLU without the shuffle: the same channels in another order.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Map non-negative [N, C, H, W] to the same shape before the block's last ReLU."""
        identity, y = x.chunk(2, dim=1)
        y = F.relu(self.bn1(self.conv1(y)))
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        return F.channel_shuffle(torch.cat([identity, y], dim=1), 2)


class DownBlock(nn.Module):
    """Two branches that halve the map, shuffled together; the caller applies their last ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = conv3x3(inputs, inputs, stride=2, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = conv1x1(inputs, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(inputs, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """Return the value before the last ReLU: [N, C, H, W] -> [N, outputs, H / 2, W / 2]."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return F.channel_shuffle(torch.cat([left, right], dim=1), 2)


def split_stage(blocks: int, inputs: int, outputs: int) -> nn.Sequential:
    """Return a stage of one block that halves the map and `blocks` blocks that keep it."""
    return nn.Sequential(DownBlock(inputs, outputs), *(SplitBlock(outputs) for _ in range(blocks)))


class ShuffleV2(Network):
    """ShuffleNet V2 of size 1.

    It has no `stage_norms`: half of a stage's channels come from ReLUs of earlier blocks.
    """

    features = rectified_feature_names(3)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(3, _STEM)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = split_stage(3, _STEM, 116)
        self.layer2 = split_stage(7, 116, 232)
        self.layer3 = split_stage(3, 232, 464)
        self.conv2 = conv1x1(464, 1024)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]; see `Network.forward`."""
        x = record("stem", F.relu(self.bn1(self.conv1(x))))
        x = rectified_stage(self.layer1, x, "stage1", record)
        x = rectified_stage(self.layer2, x, "stage2", record)
        x = rectified_stage(self.layer3, x, "stage3", record)
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(record("pooled", global_pool(record("unpooled", x))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        return self.linear


register("ShuffleV1", ShuffleV1)
register("ShuffleV2", ShuffleV2)
