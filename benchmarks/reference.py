"""The distillation loop of the CIFAR-100 literature, as the reference of `kdbench bench`.

Plain PyTorch: images pass through PIL and torchvision's transforms in a Dataset behind a DataLoader, in float32; both
networks return features and logits; the loss and two accuracies are read with `.item()` after every step. Nothing of
kdbench is used, not even its networks: these have the parameter names of the published checkpoints, so that weights
can be copied, and apply ReLU in place within a block, as the published ones do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

Answer = tuple[list[Tensor], Tensor]
"""Features, shallow first and the pooled vector last, and logits [N, C]."""

# ---- networks


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; the last ReLU is not in place, because its input is a feature too."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out)


class ResNet(nn.Module):
    """A CIFAR ResNet of 6n+2 layers; `widths` are the channels of the stem and of the three stages."""

    def __init__(self, depth: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        stem, *stages = widths
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        inputs = stem
        for number, width in enumerate(stages, start=1):
            strides = [1 if number == 1 else 2, *[1] * ((depth - 2) // 6 - 1)]
            blocks = [BasicBlock(inputs if not i else width, width, s) for i, s in enumerate(strides)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.avgpool = nn.AvgPool2d(8)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Answer:
        """Return features and logits of images [N, 3, 32, 32]."""
        features = [self.relu(self.bn1(self.conv1(x)))]
        for stage in (self.layer1, self.layer2, self.layer3):
            features.append(stage(features[-1]))
        features.append(self.avgpool(features[-1]).flatten(1))
        return features, self.fc(features[-1])


class WideBlock(nn.Module):
    """BatchNorm, ReLU and convolution, twice, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.keeps_width = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's sum before any activation."""
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return torch.add(x if self.keeps_width else self.convShortcut(active), out)


class WideStage(nn.Module):
    """A stage of wide blocks of one width."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(inputs, outputs, stride)
        self.layer = nn.Sequential(first, *(WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the last block's sum before any activation."""
        return self.layer(x)


class WideResNet(nn.Module):
    """A wide ResNet of 6n+4 layers."""

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(blocks, 16, 16 * width, 1)
        self.block2 = WideStage(blocks, 16 * width, 32 * width, 2)
        self.block3 = WideStage(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Answer:
        """Return features and logits of images [N, 3, 32, 32]."""
        features = [self.conv1(x)]
        for stage in (self.block1, self.block2, self.block3):
            features.append(stage(features[-1]))
        features.append(F.avg_pool2d(self.relu(self.bn1(features[-1])), 8).flatten(1))
        return features, self.fc(features[-1])


THIN, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(ResNet, 8, THIN),
    "resnet20": partial(ResNet, 20, THIN),
    "resnet56": partial(ResNet, 56, THIN),
    "resnet8x4": partial(ResNet, 8, WIDE),
    "resnet32x4": partial(ResNet, 32, WIDE),
    "wrn_16_2": partial(WideResNet, 16, 2),
    "wrn_40_2": partial(WideResNet, 40, 2),
}

# ---- data


class Instances(Dataset[tuple[Tensor, int, int]]):
    """Images, uint8 [N, H, W, 3], with labels; an item is the transformed image, its label and its index."""

    def __init__(self, images: np.ndarray, labels: Sequence[int], transform: Callable[..., Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index], index


def make_loader(
    images: np.ndarray,
    labels: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 64,
    workers: int = 0,
) -> DataLoader[tuple[Tensor, int, int]]:
    """Return shuffled batches. Without workers, their cost is measured in this process."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return DataLoader(Instances(images, labels, transform), batch_size, shuffle=True, num_workers=workers)


# ---- loss and metrics


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the KL divergence of the softened distributions times T^2, as a mean over the rows."""
    log_q = F.log_softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, p, reduction="sum") * temperature**2 / len(student)


def accuracy(logits: Tensor, target: Tensor, ks: Sequence[int] = (1, 5)) -> list[Tensor]:
    """Return the top-k accuracies in per cent."""
    hits = logits.topk(max(ks), dim=1).indices.t() == target[None]
    return [hits[:k].flatten().float().sum() * (100 / len(target)) for k in ks]


class AverageMeter:
    """The last value, and the mean so far."""

    def __init__(self) -> None:
        self.value = self.sum = self.average = 0.0
        self.count = 0

    def update(self, value: float, rows: int) -> None:
        """Add a mean over `rows` rows."""
        self.value = value
        self.sum += value * rows
        self.count += rows
        self.average = self.sum / self.count


# ---- the loop


def train(
    loader: DataLoader[tuple[Tensor, int, int]],
    teacher: nn.Module,
    student: nn.Module,
    lap: Callable[[str], None] = lambda part: None,
    *,
    lr: float = 0.05,
    weights: tuple[float, float] = (0.1, 0.9),
    temperature: float = 4.0,
    device: torch.device | None = None,
) -> Iterator[tuple[int, float]]:
    """Train with KD and cross-entropy, epoch after epoch, without end.

    Args:
        loader: Batches of (images, labels, indices).
        teacher: The teacher.
        student: The student; trained in place.
        lap: Called with the name of the part of the step that just ended.
        lr: Learning rate of SGD.
        weights: Weights of cross-entropy and of KD.
        temperature: Temperature of KD.
        device: Device of the networks.

    Yields:
        The number of rows and the loss of each optimiser step.
    """
    optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    cross_entropy = nn.CrossEntropyLoss()
    student.train()
    teacher.eval()
    for _ in itertools.count():
        losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
        for images, labels, _index in loader:
            inputs, target = images.to(device), labels.to(device)
            lap("data")
            _features_s, logits_s = student(inputs)
            lap("student")
            with torch.no_grad():
                features_t, logits_t = teacher(inputs)
                _features_t = [feature.detach() for feature in features_t]
            lap("teacher")
            ce, kd = cross_entropy(logits_s, target), kd_loss(logits_s, logits_t, temperature)
            loss = weights[0] * ce + weights[1] * kd
            acc1, acc5 = accuracy(logits_s, target)
            losses.update(loss.item(), len(inputs))
            top1.update(acc1.item(), len(inputs))
            top5.update(acc5.item(), len(inputs))
            lap("loss")
            optimizer.zero_grad()
            loss.backward()
            lap("backward")
            optimizer.step()
            lap("optimiser")
            yield len(inputs), losses.value
