"""Image classification: how teachers are trained, and what streamed images lack."""

from types import SimpleNamespace

import pytest

from kdbench.tasks import Capability, TeacherTraining, get

TASK = get("images")


def images(space: str = "cifar100", has_finite_views: bool = True) -> SimpleNamespace:
    return SimpleNamespace(name="photos", label_space=space, has_finite_views=has_finite_views)


@pytest.mark.parametrize(
    ("space", "dataset", "keys", "training"),
    [
        ("cifar100", "cifar100_mini", {}, TeacherTraining(("dataset=cifar100",), (), "cifar240")),
        (
            "cifar100",
            "cifar100",
            {"path": "d"},
            TeacherTraining(("dataset=cifar100", "dataset.path=d"), (), "cifar240"),
        ),
        ("cifar100", "cifar100_mini", {"path": "d"}, TeacherTraining(("dataset=cifar100",), (), "cifar240")),
        (
            "birds",
            "folder",
            {"path": "d", "size": 64, "padding": 4, "name": None},
            TeacherTraining(("dataset=folder", "dataset.path=d", "dataset.size=64"), (), "cifar240"),
        ),
        ("imagenet", "imagenet", {}, TeacherTraining(("dataset=imagenet",), (), "imagenet100")),
    ],
)
def test_teachers_are_trained_on_the_whole_label_space(space, dataset, keys, training):
    assert TASK.teacher_training(images(space), {"dataset": keys}, dataset) == training


@pytest.mark.parametrize(
    "capability", [Capability.STORED_ANSWERS, Capability.CUDA_GRAPHS, Capability.EXTRA_VIEWS]
)
def test_streamed_images_lack_what_needs_resident_images(capability):
    assert "photos" in str(TASK.why_not(capability, images(has_finite_views=False)))
    assert TASK.why_not(capability, images()) is None
    assert TASK.why_not(capability) is None
