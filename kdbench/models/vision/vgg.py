"""VGG (Simonyan and Zisserman 2015, arXiv:1409.1556) with BatchNorm, average pooling and one linear layer.

The variant for CIFAR is that of Tian et al. 2020, arXiv:1910.10699.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.network import (
    FeatureRecorder,
    Network,
    by_stage,
    global_pool,
    kaiming_convolutions,
    no_recording,
    rectified_feature_names,
    register,
    small_normal,
)


def conv_block(convolutions: int, inputs: int, outputs: int) -> nn.Sequential:
    """Return repeated conv-BN-ReLU without the last ReLU, which the caller applies to record its input."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers[:-1])


class VGG(Network):
    """Five blocks of 64, 128, 256, 512 and 512 channels; `convolutions` is the number of layers of each."""

    features = rectified_feature_names(4)

    def __init__(self, convolutions: tuple[int, int, int, int, int], num_classes: int) -> None:
        super().__init__()
        self.block0 = conv_block(convolutions[0], 3, 64)
        self.block1 = conv_block(convolutions[1], 64, 128)
        self.block2 = conv_block(convolutions[2], 128, 256)
        self.block3 = conv_block(convolutions[3], 256, 512)
        self.block4 = conv_block(convolutions[4], 512, 512)
        self.classifier = nn.Linear(512, num_classes)
        kaiming_convolutions(self)
        small_normal(self.classifier)

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]; see `Network.forward`."""
        # the published code has a fourth pooling at 64x64 and not at 32x32; larger images are treated like 64x64
        pools_late = x.shape[2] >= 64
        x = record("stem", F.relu(self.block0(x)))
        for number, block in enumerate((self.block1, self.block2, self.block3, self.block4), start=1):
            if number < 4 or pools_late:
                x = F.max_pool2d(x, 2)
            x = record(f"stage{number}.pre", block(x))
            x = record(f"stage{number}", F.relu(x))
        logits: Tensor = self.classifier(record("pooled", global_pool(record("unpooled", x))))
        return logits

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        return self.classifier

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """Return the BatchNorm whose output is each stage's `.pre`."""
        return by_stage(self.block1[-1], self.block2[-1], self.block3[-1], self.block4[-1])


NETWORKS = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Layers of each block by name."""

for _name, _convolutions in NETWORKS.items():
    register(_name, partial(VGG, _convolutions))
