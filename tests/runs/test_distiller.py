"""`Distiller`: any two modules, and the same step as a run's, to the bit."""

import copy
import re

import pytest
import torch
import torchvision
from torch import nn

import kdbench
from kdbench.core.objective import DatasetInfo
from kdbench.core.types import Batch
from kdbench.models.registry import create_model
from kdbench.runs.distiller import Distiller
from kdbench.tasks import get as get_task
from kdbench.teachers.live import LiveTeacher
from kdbench.training.schedule import Schedule
from kdbench.training.student import Student
from kdbench.utils.paths import CONF_DIR

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(8) % 4
LABELS = torch.arange(100) % 4
RECIPES = sorted({file.stem for file in (CONF_DIR / "loss").glob("*.yaml")} - {"sum"})


class Own(nn.Module):
    """A network that kdbench knows nothing of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def networks(student: str = "resnet8", teacher: str = "resnet14") -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return tuple(
        create_model(name, num_classes=4).to(memory_format=torch.channels_last) for name in (student, teacher)
    )


@pytest.mark.parametrize("recipe", ["kd", "wttm", "reviewkd", "crd", "dkd", "simkd"])
def test_a_step_is_the_step_of_a_run(recipe, tmp_path):
    """The same batch, weights and seed give the same loss and the same gradients, bit for bit."""
    student, teacher = networks()
    distiller = Distiller(copy.deepcopy(student), teacher, recipe, train_labels=LABELS, seed=3).setup(IMAGES)
    batch = Batch(IMAGES, TARGET, torch.arange(8), epoch=2)

    own = Student(
        student,
        Distiller(student, teacher, recipe, train_labels=LABELS).loss,
        Schedule(1, 8, 0.1, plan="constant"),
        get_task("images"),
    )
    live = LiveTeacher("resnet14", copy.deepcopy(teacher), (), {})
    own.setup(
        live,
        Batch(IMAGES, torch.zeros(8, dtype=torch.int64), torch.arange(8)),
        DatasetInfo(4, LABELS, torch.arange(100)),
        3,
    )
    expected, expected_parts = own.loss(own.answer(batch), live(batch, own.loss.teacher_features), batch)
    total, parts = distiller(IMAGES, TARGET, torch.arange(8), epoch=2)

    assert torch.equal(total, expected)
    assert parts.keys() == expected_parts.keys()
    expected.backward()
    total.backward()
    ours, theirs = dict(distiller.student.named_parameters()), dict(own.model.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        if theirs[name].grad is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, theirs[name].grad)


def test_features_of_networks_that_kdbench_does_not_know():
    distiller = Distiller(
        Own(8),
        Own(16),
        "reviewkd",
        student_features=["layer1", "layer2"],
        teacher_features=["layer1", "layer2"],
    )
    with pytest.raises(ValueError, match=r"call distiller.setup"):
        distiller(IMAGES, TARGET, epoch=1)
    distiller.setup(IMAGES)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        total, parts = distiller(IMAGES, TARGET, epoch=1)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert set(parts) == {"ce", "reviewkd"}
    assert losses[-1] < 0.9 * losses[0]


def test_a_network_without_declared_stages_is_asked_for_paths():
    distiller = Distiller(Own(8), Own(16), "at")
    with pytest.raises(
        ValueError, match=r"student for stage\*, and Own has no .* pass student_features=.*'layer1'"
    ):
        distiller.setup(IMAGES)


def test_a_feature_that_is_not_there_is_named():
    distiller = Distiller(Own(8), Own(16), "at", student_features=["layer9"], teacher_features=["layer1"])
    with pytest.raises(ValueError, match="at asks the student for layer9, and Own has no"):
        distiller.setup(IMAGES)


def test_the_teacher_is_frozen_and_not_among_the_parameters():
    teacher = Own(16)
    before = copy.deepcopy(teacher.state_dict())
    distiller = Distiller(Own(8), teacher, "kd").setup(IMAGES).train()
    assert not teacher.training
    total, _ = distiller(IMAGES, TARGET)
    total.backward()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    owned = {id(parameter) for parameter in distiller.parameters()}
    assert owned == {id(parameter) for parameter in distiller.student.parameters()}
    assert not any(name.startswith("teacher") for name in distiller.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_state_is_restored():
    def build() -> Distiller:
        return Distiller(*networks(), "crd", train_labels=LABELS).setup(IMAGES)

    one, other = build(), build()
    total, _ = one(IMAGES, TARGET, torch.arange(8), epoch=1)
    total.backward()
    torch.optim.SGD(one.parameters(), lr=0.1).step()
    other.load_state_dict(one.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_moving_it_moves_the_teacher():
    distiller = Distiller(Own(8), Own(16), "kd").double()
    assert distiller.teacher.fc.weight.dtype == torch.float64
    assert distiller.student.fc.weight.dtype == torch.float64


def test_an_objective_has_weight_one_beside_cross_entropy():
    distiller = Distiller(Own(8), Own(16), kdbench.objectives.create("dist")).setup(IMAGES)
    total, parts = distiller(IMAGES, TARGET)
    torch.testing.assert_close(total, parts["ce"] + parts["dist"])


def test_several_objectives_are_weighted_by_name():
    terms = {"kd": kdbench.objectives.create("kd", temperature=2.0), "at": kdbench.objectives.create("at")}
    features = {"at": ["layer1", "layer2"]}
    distiller = Distiller(
        Own(8),
        Own(16),
        terms,
        weights={"ce": 0.5, "kd": 2.0, "at": 10.0},
        student_features=features,
        teacher_features=features,
    ).setup(IMAGES)
    total, parts = distiller(IMAGES, TARGET)
    torch.testing.assert_close(total, 0.5 * parts["ce"] + 2 * parts["kd"] + 10 * parts["at"])
    with pytest.raises(ValueError, match="weights: give one for each of kd, at"):
        Distiller(Own(8), Own(16), terms)


def test_a_recipe_uses_the_weights_of_a_published_pair():
    named = Distiller(Own(8), Own(16), "wttm", pair="resnet32x4:resnet8x4").loss
    built = Distiller(create_model("resnet8x4", 4), create_model("resnet32x4", 4), "wttm").loss
    assert named.weights == built.weights
    assert named.weights != Distiller(Own(8), Own(16), "wttm", pair="resnet56:resnet20").loss.weights


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("wtm", {}, "did you mean .*wttm"),
        ("kd", {"weights": {"kdd": 1.0}}, "kdd"),
        ("crd", {}, "crd needs the labels of the training set; pass train_labels=labels"),
        ("ft", {}, "the loss has a first stage; use kdbench.train"),
        ("kd_dot", {}, "uses DOT"),
        ("kd", {"student_features": ["layer1"]}, "no term of the loss asks for features"),
    ],
)
def test_what_it_cannot_do_is_refused(loss, options, message):
    with pytest.raises(ValueError, match=message):
        Distiller(Own(8), Own(16), loss, **options)


def test_missing_arguments_of_a_step_are_named():
    crd = Distiller(*networks(), "crd", train_labels=LABELS).setup(IMAGES)
    with pytest.raises(
        ValueError, match=r"crd remembers the rows .* call distiller\(inputs, target, index\)"
    ):
        crd(IMAGES, TARGET, epoch=1)
    with pytest.raises(ValueError, match="crd changes with the epoch"):
        crd(IMAGES, TARGET, torch.arange(8))
    mlkd = Distiller(Own(8), Own(16), "mlkd").setup(IMAGES, views={"strong": IMAGES})
    with pytest.raises(ValueError, match="needs the view 'strong'"):
        mlkd(IMAGES, TARGET, epoch=1)


def test_a_rising_weight_is_full_without_an_epoch():
    distiller = Distiller(Own(8), Own(16), "dkd").setup(IMAGES)
    (full, parts), (first, _) = distiller(IMAGES, TARGET), distiller(IMAGES, TARGET, epoch=1)
    weight = distiller.loss.weights["dkd"]
    torch.testing.assert_close(full, parts["ce"] + weight * parts["dkd"])
    torch.testing.assert_close(first, parts["ce"] + weight / 20 * parts["dkd"])


def test_a_head_of_the_loss_predicts():
    distiller = Distiller(*networks(), "simkd").setup(IMAGES).eval()
    assert distiller.predict(IMAGES).shape == (8, 4)
    assert not torch.equal(distiller.predict(IMAGES), distiller.student(IMAGES))


def skipped_reason(recipe: str) -> str | None:
    """Return why a recipe cannot serve two torchvision networks, or None after a finite step."""
    torch.manual_seed(0)
    networks = [getattr(torchvision.models, name)(num_classes=4) for name in ("resnet18", "resnet34")]
    views = {"strong": IMAGES}
    try:
        distiller = Distiller(*networks, recipe, train_labels=LABELS).setup(IMAGES, views)
        total, _ = distiller(IMAGES, TARGET, torch.arange(8), epoch=1, views=views)
    except ValueError as error:
        return str(error)
    assert torch.isfinite(total)
    return None


@pytest.mark.slow
def test_every_recipe_takes_a_step_or_says_why_not():
    reasons = {name: skipped_reason(name) for name in RECIPES}
    assert sum(reason is None for reason in reasons.values()) > 25
    said = "use kdbench.train|asks the (student|teacher) for|needs a? ?teacher|task"
    assert [name for name, reason in reasons.items() if reason and not re.search(said, reason)] == []
