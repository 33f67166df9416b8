"""Folding BatchNorms into convolutions leaves logits and features unchanged."""

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from kdbench.core.types import Batch
from kdbench.models.bn_folding import fold_batch_norms
from kdbench.models.features import answer, feature_names
from kdbench.models.names import available
from kdbench.models.registry import create_model
from kdbench.teachers.live import LiveTeacher

REMAINING = {"wrn": 0.6}
"""Share of BatchNorms that cannot be folded: in wide ResNets the first one of each block reads a sum."""


def randomised(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return a network in eval mode whose BatchNorm scales and statistics differ from the initial ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias):
                values.data += 0.2 * torch.randn(values.shape, generator=generator)
    update_bn([images], model)
    return model.eval()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", available())
def test_logits_and_features_are_unchanged(name):
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    model = randomised(create_model(name, 10), images)
    folded = fold_batch_norms(model, images[:1])
    share = REMAINING.get(name.split("_")[0], 0.0)
    assert count_norms(folded) <= share * count_norms(model) < count_norms(model)
    with torch.no_grad():
        before, after = (
            answer(model, images, feature_names(model)),
            answer(folded, images, feature_names(model)),
        )
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-3, atol=1e-3)
    for record, value in before.features.items():
        torch.testing.assert_close(after.features[record], value, rtol=1e-3, atol=1e-3)


def test_timm_network_is_unchanged():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64)
    model = randomised(timm.create_model("resnet18", num_classes=10), images)
    folded = fold_batch_norms(model, images[:1])
    assert count_norms(folded) == 0
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-3)


class Awkward(nn.Module):
    """A convolution with two readers, a BatchNorm that is applied twice, and one without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.read_twice, self.serves_twice = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.plain = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.read_twice(x)
        x = self.serves_twice(self.serves_twice(self.second(x)))
        return self.plain(self.third(x)).mean(dim=(2, 3))


def test_unfoldable_norms_are_kept():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    model = Awkward()
    update_bn([images], model)
    folded = fold_batch_norms(model.eval(), images[:1])
    assert count_norms(folded) == count_norms(model)
    torch.testing.assert_close(folded(images), model(images))


def test_bf16_teacher_uses_the_folded_network_with_and_without_features():
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    model = randomised(create_model("wrn_16_2", 10), images)
    batch = Batch(images, torch.zeros(8, dtype=torch.long), torch.arange(8), 1, 0)
    teacher = LiveTeacher("wrn_16_2", model, (), {}, bf16=True)
    without_features, with_features = teacher(batch), teacher(batch, feature_names(model))
    assert torch.equal(without_features.logits, with_features.logits)
    assert count_norms(teacher.model) == 13  # objectives still find the original layers
    with torch.no_grad():
        torch.testing.assert_close(without_features.logits.float(), model(images), rtol=0.1, atol=0.1)
    exact = LiveTeacher("wrn_16_2", model, (), {})
    assert torch.equal(exact(batch).logits, model(images))
