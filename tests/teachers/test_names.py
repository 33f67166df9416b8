import pytest

from kdbench.runs.hydra_setup import register
from kdbench.teachers.names import display_name, full_name, network_of, teacher_overrides, training_overrides
from tests.helpers.composition import compose_checked

register()

NAMES = [
    "resnet56",
    "resnet56@mcmi-0.25",
    "resnet56@run-1a2b3c4d",
    "resnet56+wrn_40_2",
    "vgg13@a+vgg8@b+vgg8",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_chooses_the_teacher_that_is_known_by_it(name):
    cfg = compose_checked("train", [*teacher_overrides(name), "loss=kd"])
    assert display_name(cfg.teacher) == name


def test_names():
    assert full_name("resnet56", None) == full_name("resnet56", "") == "resnet56"
    assert network_of(full_name("resnet56", "mcmi-0.25")) == "resnet56"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vgg13", "teacher=vgg13 schedule=cifar240"),
        ("timm/resnet18", "teacher=timm teacher.name=timm/resnet18 schedule=cifar240"),
        (
            "vgg13@mcmi-0.25",
            "teacher=vgg13 teacher_loss=mcmi teacher_loss.weight=0.25 teacher.init=store schedule=mcmi20",
        ),
        ("vgg13@mcmi-1e-05", "teacher_loss.weight=1e-05"),
        ("vgg13@mcmi-ema", "teacher=vgg13 teacher.variant=mcmi-ema ..."),
        ("vgg13@of-mine", "teacher=vgg13 teacher.variant=of-mine ..."),
    ],
)
def test_the_command_that_trains_one(name, words):
    assert words in " ".join(training_overrides(name, "store", "cifar240"))
