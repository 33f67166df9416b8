"""Where each kind of block shuffles, adds, concatenates and branches, which sizes and shapes do not show."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.models.vision.mobilenet_v2 import InvertedResidual
from kdbench.models.vision.resnet import BasicBlock, Bottleneck
from kdbench.models.vision.shufflenet import DownBlock, GroupedBottleneck, SplitBlock
from kdbench.models.vision.wide_resnet import WideBlock


def randomised(block: nn.Module) -> nn.Module:
    """Return the block in eval mode with BatchNorms that are not the identity."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values)
    return block.eval()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def interleave(x: Tensor, groups: int) -> Tensor:
    """Move channel i of group g to position i * groups + g."""
    per_group = x.shape[1] // groups
    order = [group * per_group + i for i in range(per_group) for group in range(groups)]
    return x[:, order]


def test_basic_block_projects_only_the_shortcut():
    block, x = randomised(BasicBlock(4, 8, 2)), torch.randn(2, 4, 6, 6)
    y = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), y + block.downsample[1](block.downsample[0](x)))
    assert torch.equal(randomised(same := BasicBlock(4, 4, 1)).downsample(x), x)
    assert (same(x) < 0).any()


def test_bottleneck_strides_in_its_3x3_convolution():
    block, x = randomised(Bottleneck(8, 4, 2)), torch.randn(2, 8, 6, 6)
    y = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))))
    torch.testing.assert_close(block(x), block.bn3(block.conv3(y)) + block.shortcut(x))
    assert [conv.stride for conv in (block.conv1, block.conv2, block.conv3)] == [(1, 1), (2, 2), (1, 1)]


def test_widening_block_branches_after_its_first_relu():
    block, x = randomised(WideBlock(4, 8, 2)), torch.randn(2, 4, 6, 6)
    active = F.relu(block.bn1(x))
    y = block.conv2(F.relu(block.bn2(block.conv1(active))))
    torch.testing.assert_close(block(x), y + block.convShortcut(active))
    assert torch.equal(block(x, block.bn1(x)), block(x))


def test_wide_block_of_constant_width_adds_its_input():
    block, x = randomised(WideBlock(4, 4, 1)), torch.randn(2, 4, 6, 6)
    y = block.conv2(F.relu(block.bn2(block.conv1(F.relu(block.bn1(x))))))
    torch.testing.assert_close(block(x), y + x)


@pytest.mark.parametrize(("inputs", "outputs", "stride", "adds"), [(4, 4, 1, 1), (4, 4, 2, 0), (4, 6, 1, 0)])
def test_inverted_residual_adds_only_at_equal_shapes(inputs, outputs, stride, adds):
    block, x = randomised(InvertedResidual(inputs, outputs, stride, 6)), torch.randn(2, inputs, 6, 6)
    y = block.conv(x)
    torch.testing.assert_close(block(x), y + x if adds else y)


@pytest.mark.parametrize(("inputs", "groups"), [(24, 1), (48, 3)])
def test_grouped_bottleneck_shuffles_then_concatenates_the_pooled_input(inputs, groups):
    block, x = randomised(GroupedBottleneck(inputs, 240, 2)), torch.randn(2, inputs, 6, 6)
    y = interleave(F.relu(block.bn1(block.conv1(x))), groups)
    y = block.bn3(block.conv3(F.relu(block.bn2(block.conv2(y)))))
    pooled = F.avg_pool2d(x, 3, stride=2, padding=1)
    torch.testing.assert_close(block(x), torch.cat([y, pooled], 1))


def test_grouped_bottleneck_adds_at_stride_1():
    block, x = randomised(GroupedBottleneck(48, 48, 1)), torch.randn(2, 48, 6, 6)
    y = interleave(F.relu(block.bn1(block.conv1(x))), 3)
    y = block.bn3(block.conv3(F.relu(block.bn2(block.conv2(y)))))
    torch.testing.assert_close(block(x), y + x)


def test_split_block_passes_the_first_half_and_interleaves():
    block, x = randomised(SplitBlock(8)), torch.rand(2, 8, 6, 6)
    y = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x[:, 4:])))))
    y = block.bn3(block.conv3(y))
    torch.testing.assert_close(block(x), interleave(torch.cat([x[:, :4], y], 1), 2))
    torch.testing.assert_close(F.relu(block(x)), interleave(torch.cat([x[:, :4], F.relu(y)], 1), 2))


def test_down_block_interleaves_its_two_branches():
    block, x = randomised(DownBlock(6, 8)), torch.randn(2, 6, 6, 6)
    left = block.bn2(block.conv2(block.bn1(block.conv1(x))))
    right = block.bn4(block.conv4(F.relu(block.bn3(block.conv3(x)))))
    right = block.bn5(block.conv5(right))
    torch.testing.assert_close(block(x), interleave(torch.cat([left, right], 1), 2))
