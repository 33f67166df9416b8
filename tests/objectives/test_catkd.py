from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.models.features import answer
from kdbench.models.registry import create_model
from kdbench.objectives.catkd import CATKD, catkd_loss, class_maps
from tests.objectives.cases import assert_same, normal, value_and_gradient

BATCH = Batch(torch.zeros(4), torch.arange(4), torch.arange(4))
CLASSIFIERS = (normal(2, 3, 5), normal(3, 1, 3)[0]), (normal(4, 3, 8), normal(5, 1, 3)[0])
NONE = torch.zeros(0, dtype=torch.int64)


def maps(seed: int, channels: int, size: int) -> Tensor:
    return normal(seed, 4, channels * size * size).view(4, channels, size, size)


def side(features: Tensor, classifier: tuple[Tensor, Tensor] | None) -> Outputs:
    return Outputs(torch.zeros(len(features), 3), {"unpooled": features}, classifier)


def made(student: Outputs, teacher: Outputs, **parameters) -> CATKD:
    objective = CATKD(**parameters)
    objective.student_features = objective.teacher_features = ("unpooled",)
    objective.setup(nn.Identity(), nn.Identity(), Probes(student, teacher), DatasetInfo(3, NONE, NONE))
    return objective


def formula(student: Tensor, teacher: Tensor, resolution: int, normalise: bool) -> Tensor:
    """Class by class, on maps whose size the resolution divides."""
    total = []
    for s, t in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        a, b = (F.avg_pool2d(m[None], m.shape[-1] // resolution)[0] for m in (s, t))
        total.append((a / a.norm() - b / b.norm() if normalise else a - b).square().mean())
    return torch.stack(total).mean()


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("sizes", "resolution"), [((4, 4), 2), ((8, 4), 4), ((2, 4), 1)])
def test_value_and_gradient_are_the_formulas(sizes, resolution, normalise):
    student, teacher = maps(0, 3, sizes[0]), maps(1, 3, sizes[1])
    assert_same(
        lambda s: catkd_loss(s, teacher, resolution, normalise),
        lambda s: formula(s, teacher, resolution, normalise),
        student,
    )


@pytest.mark.parametrize("bias", [True, False])
def test_the_objective_compares_what_the_classifiers_say_at_each_position(bias):
    student, teacher = maps(0, 5, 4), maps(1, 8, 4)
    theirs = side(teacher, CLASSIFIERS[1])
    objective = made(side(student, CLASSIFIERS[0]), theirs, bias=bias)

    def activations(features: Tensor, weight: Tensor, b: Tensor) -> Tensor:
        said = torch.einsum("kc,nchw->nkhw", weight, features)
        return said + b[:, None, None] if bias else said

    target = activations(teacher, *CLASSIFIERS[1])
    assert_same(
        lambda s: objective(side(s, CLASSIFIERS[0]), theirs, BATCH),
        lambda s: formula(activations(s, *CLASSIFIERS[0]), target, 2, True),
        student,
    )
    assert_same(
        lambda w: objective(side(student, (w, CLASSIFIERS[0][1])), theirs, BATCH),
        lambda w: formula(activations(student, w, CLASSIFIERS[0][1]), target, 2, True),
        CLASSIFIERS[0][0],
    )


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "ShuffleV2", "MobileNetV2", "timm/resnet10t"]
)
def test_the_mean_of_the_maps_is_the_logits(name):
    """The feature is what the classifier averages, in every family."""
    network = create_model(name, num_classes=5).eval()
    with torch.no_grad():
        answered = answer(network, torch.randn(2, 3, 32, 32), ["unpooled"])
        said = class_maps(answered.features["unpooled"], *answered.classifier)
    torch.testing.assert_close(said.mean((2, 3)), answered.logits, rtol=1e-4, atol=1e-5)


def test_normalised_maps_have_no_scale_and_a_silent_class_no_gradient():
    student, teacher = maps(0, 3, 4), maps(1, 3, 4)
    torch.testing.assert_close(catkd_loss(7 * student, teacher), catkd_loss(student, teacher))
    assert catkd_loss(3 * teacher, teacher) < 1e-20
    silent = torch.cat([student[:, :2], torch.zeros_like(student[:, :1])], dim=1)
    value, gradient = value_and_gradient(lambda s: catkd_loss(s, teacher), silent)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_refuses_a_map_that_the_classifier_does_not_average(which):
    network = create_model("ShuffleV2", num_classes=3).eval()
    with torch.no_grad():
        inner = answer(network, torch.randn(4, 3, 32, 32), ["stage3"])
    shuffled = replace(inner, features={"unpooled": inner.features["stage3"]})
    fits = side(maps(0, 5, 4), CLASSIFIERS[0])
    with pytest.raises(ValueError, match=rf"{which}'s last map \[464, 4, 4\].*1024 inputs"):
        made(*((shuffled, fits) if which == "student" else (fits, shuffled)))
    bare = side(maps(0, 5, 4), None)
    with pytest.raises(ValueError, match=f"{which} does not end in one linear layer"):
        made(*((bare, fits) if which == "student" else (fits, bare)))


def test_refuses_a_resolution():
    with pytest.raises(ValueError, match=r"CATKD: resolution .*0"):
        CATKD(resolution=0)
