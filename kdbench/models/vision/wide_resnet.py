"""Wide ResNets (Zagoruyko and Komodakis 2016, arXiv:1605.07146, sec. 2) without dropout."""

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
    register,
)


class WideBlock(nn.Module):
    """BN-ReLU-conv twice and a shortcut, which starts after the first ReLU if the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.convShortcut = None if inputs == outputs else conv1x1(inputs, outputs, stride)

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        """Return the signed sum; `normed` is bn1(x) if the caller has computed it."""
        # in place only on a value made here: `normed` is a recorded feature
        active = F.relu_(self.bn1(x)) if normed is None else F.relu(normed)
        y: Tensor = self.conv2(F.relu_(self.bn2(self.conv1(active))))
        return y.add_(x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """The blocks of one width, under the attribute name of the official checkpoints."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def norm(self, x: Tensor) -> Tensor:
        """Return the first block's bn1(x), which is also the `.pre` feature of the previous stage."""
        first = self.layer[0]
        assert isinstance(first, WideBlock)
        normed: Tensor = first.bn1(x)
        return normed

    def forward(self, x: Tensor, normed: Tensor) -> Tensor:
        """Return the last block's signed sum; `normed` is the value of `norm(x)`."""
        first, *rest = self.layer
        x = first(x, normed)
        for block in rest:
            x = block(x)
        return x


class WideResNet(Network):
    """A wide ResNet of 6n+4 layers.

    `stem` and the stages are signed sums; `stage1.pre` is the output of the BatchNorm after stage 1, the value
    before the next ReLU.

    Args:
        depth: Number of layers, 6n+4.
        width: Factor of the stages' channels.
        num_classes: Number of logits.

    Raises:
        ValueError: For another depth.
    """

    features = (
        "stem",
        "stage1",
        "stage1.pre",
        "stage2",
        "stage2.pre",
        "stage3",
        "stage3.pre",
        "unpooled",
        "pooled",
    )

    def __init__(self, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"WideResNet: depth must be 6n+4 (16, 22, 28, 40, ...), got {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = conv3x3(3, 16)
        self.block1 = WideStage(blocks, 16, 16 * width, stride=1)
        self.block2 = WideStage(blocks, 16 * width, 32 * width, stride=2)
        self.block3 = WideStage(blocks, 32 * width, 64 * width, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        kaiming_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]; see `Network.forward`."""
        x = record("stem", self.conv1(x))
        x = record("stage1", self.block1(x, self.block1.norm(x)))
        normed = record("stage1.pre", self.block2.norm(x))
        x = record("stage2", self.block2(x, normed))
        normed = record("stage2.pre", self.block3.norm(x))
        x = record("stage3", self.block3(x, normed))
        normed = record("stage3.pre", self.bn1(x))
        logits: Tensor = self.fc(record("pooled", global_pool(record("unpooled", F.relu(normed)))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        return self.fc

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """Return the BatchNorm whose output is each stage's `.pre`: the first layer after the stage."""
        return by_stage(self.block2.layer[0].bn1, self.block3.layer[0].bn1, self.bn1)


NETWORKS = {
    "wrn_16_1": {"depth": 16, "width": 1},
    "wrn_16_2": {"depth": 16, "width": 2},
    "wrn_40_1": {"depth": 40, "width": 1},
    "wrn_40_2": {"depth": 40, "width": 2},
}
"""Arguments of `WideResNet` by name."""

for _name, _arguments in NETWORKS.items():
    register(_name, partial(WideResNet, **_arguments))
