"""The reference loop trains the same networks on the same views with the same loss as kdbench."""

import math

import numpy as np
import pytest
import torch

from kdbench.benchmark.settings import reference_module
from kdbench.core.types import Batch, Outputs, View
from kdbench.data.images.crop_flip import view_count, view_of
from kdbench.data.sources.cifar import CIFAR100
from kdbench.models.features import answer
from kdbench.models.registry import create_model
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.utils.seeding import seed_scope
from tests.helpers.composition import compose_checked

register()
reference = reference_module()
FEATURES = ("stem", "stage1", "stage2", "stage3", "pooled")


def twins(name: str, classes: int = 10) -> list[torch.nn.Module]:
    """Return the reference's network and kdbench's with equal weights."""
    theirs, ours = reference.NETWORKS[name](classes=classes), create_model(name, classes)
    theirs.load_state_dict(ours.state_dict())
    return [theirs, ours]


@pytest.mark.parametrize("name", reference.NETWORKS)
def test_networks_equal_those_of_kdbench(name):
    with seed_scope(0, "twins"):
        theirs, ours = twins(name)
        images = torch.randn(2, 3, 32, 32)
    features, logits = theirs(images)
    expected = answer(ours, images, FEATURES)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
    for feature, record in zip(features, FEATURES, strict=True):
        torch.testing.assert_close(feature, expected.features[record], rtol=1e-4, atol=1e-4)


def test_two_steps_have_the_losses_of_kdbench():
    made = make_plan(compose_checked("train", ["dataset=fake", "loss=kd"]), {})
    with seed_scope(0, "steps"):
        (their_teacher, teacher), (their_student, student) = twins("resnet20"), twins("resnet8")
        batches = [(torch.randn(16, 3, 32, 32), torch.randint(10, (16,)), torch.arange(16)) for _ in range(2)]
    loop = reference.train(batches, their_teacher, their_student, lr=made.schedule.lr)
    optimizer = made.schedule.optimizer(student)
    teacher.eval()
    for number, (inputs, target, index) in enumerate(batches):
        with torch.no_grad():
            theirs = Outputs(teacher(inputs))
        total, _ = made.loss(Outputs(student(inputs)), theirs, Batch(inputs, target, index))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        rows, loss = next(loop)
        assert rows == 16
        assert loss == pytest.approx(total.item(), rel=1e-4), number
    next(loop)
    for name, value in their_student.named_parameters():
        assert value.grad is not None, name


def test_one_step_changes_the_weights_as_in_kdbench():
    schedule = make_plan(compose_checked("train", ["dataset=fake", "loss=ce", "teacher=none"]), {}).schedule
    with seed_scope(0, "step"):
        theirs, ours = twins("resnet8")
        batch = torch.randn(8, 3, 32, 32), torch.randint(10, (8,)), torch.arange(8)
    next(
        reference.train(
            [batch], reference.NETWORKS["resnet8"](classes=10), theirs, weights=(1.0, 0.0), lr=schedule.lr
        )
    )
    optimizer = schedule.optimizer(ours)
    ours.train()
    torch.nn.functional.cross_entropy(ours(batch[0]), batch[1]).backward()
    optimizer.step()
    for name, value in ours.named_parameters():
        torch.testing.assert_close(theirs.get_parameter(name), value, rtol=1e-3, atol=1e-5)


def test_the_loader_yields_views_of_kdbench():
    data = make_plan(compose_checked("train", ["dataset=cifar100_mini", "schedule.batch_size=8"]), {}).data
    data.setup("fit")
    images = np.ascontiguousarray(data.train_images.permute(0, 2, 3, 1).numpy())
    loader = reference.make_loader(
        images, data.dataset_info.labels.tolist(), CIFAR100.mean, CIFAR100.std, batch_size=8
    )
    inputs, target, index = next(iter(loader))
    assert torch.equal(data.dataset_info.labels[index], target)
    numbers = torch.arange(view_count(data.padding))
    drawn = set()
    for row, image in zip(inputs, index, strict=True):
        view: View = view_of(numbers, data.padding)
        views = data.train_inputs(image.expand(len(numbers)), view)
        (same,) = ((views - row).abs().amax(dim=(1, 2, 3)) < 1e-5).nonzero(as_tuple=True)
        assert len(same), "a crop of this image, flipped or not"
        drawn.add(same[0].item())
    assert len(drawn) > 1, "the views are random"


def test_accuracies_and_their_mean():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [1.0, 3.0, 2.0]])
    top1, top2 = reference.accuracy(logits, torch.tensor([0, 0, 0, 1]), ks=(1, 2))
    assert (top1.item(), top2.item()) == (50.0, 75.0)
    metric = reference.AverageMeter()
    metric.update(50.0, 4)
    metric.update(100.0, 1)
    assert (metric.value, metric.average) == (100.0, 60.0)


def test_kd_of_two_classes():
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert reference.kd_loss(torch.zeros(1, 2), teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-6)
