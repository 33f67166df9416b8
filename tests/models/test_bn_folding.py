"""Networks with BatchNorms in the convolutions before them answer as they did, and so do their features."""

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

LEFT = {"wrn": 0.6}
"""Share of the BatchNorms that may stay, where not all go: a wide ResNet's first ones of a block read a sum."""


def trained(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """With statistics and scales that are not those of the beginning."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias):
                values.data += 0.2 * torch.randn(values.shape, generator=generator)
    update_bn([images], model)
    return model.eval()


def norms(model: nn.Module) -> int:
    """How many BatchNorms there are."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", available())
def test_logits_and_taps_stay(name):
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    model = trained(create_model(name, 10), images)
    folded = fold_batch_norms(model, images[:1])
    share = LEFT.get(name.split("_")[0], 0.0)
    assert norms(folded) <= share * norms(model) < norms(model)
    with torch.no_grad():
        before, after = (
            answer(model, images, feature_names(model)),
            answer(folded, images, feature_names(model)),
        )
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-3, atol=1e-3)
    for record, value in before.features.items():
        torch.testing.assert_close(after.features[record], value, rtol=1e-3, atol=1e-3)


def test_a_network_of_timm_keeps_its_answers():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64)
    model = trained(timm.create_model("resnet18", num_classes=10), images)
    folded = fold_batch_norms(model, images[:1])
    assert norms(folded) == 0
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model(images), rtol=1e-3, atol=1e-3)


class Awkward(nn.Module):
    """A convolution that two read, one BatchNorm that serves twice, and one without weights."""

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


def test_what_would_change_the_answer_is_left_alone():
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    model = Awkward()
    update_bn([images], model)
    folded = fold_batch_norms(model.eval(), images[:1])
    assert norms(folded) == norms(model)
    torch.testing.assert_close(folded(images), model(images))


def test_under_bfloat16_all_are_answered_by_the_same_network():
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)
    model = trained(create_model("wrn_16_2", 10), images)
    batch = Batch(images, torch.zeros(8, dtype=torch.long), torch.arange(8), 1, 0)
    teacher = LiveTeacher("wrn_16_2", model, (), {}, bf16=True)
    plain, select_features = teacher(batch), teacher(batch, feature_names(model))
    assert torch.equal(plain.logits, select_features.logits)
    assert norms(teacher.model) == 13  # who binds to its layers finds them
    with torch.no_grad():
        torch.testing.assert_close(plain.logits.float(), model(images), rtol=0.1, atol=0.1)
    exact = LiveTeacher("wrn_16_2", model, (), {})
    assert torch.equal(exact(batch).logits, model(images))
